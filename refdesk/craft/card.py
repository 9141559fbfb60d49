"""Cards: what data or an adapter was made of, so that it can be made again and judged."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refdesk.craft.errors import InvalidLessons
from refdesk.craft.lesson import Lesson

CARD = "card.json"


def describe(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Counts of what is in the lessons."""
    asked = [exercise for lesson in lessons for exercise in lesson.exercises if exercise.kind == "answer"]
    exercises = sum(len(lesson.exercises) for lesson in lessons)
    return {
        "lessons": len(lessons),
        "exercises": exercises,
        "by_source": dict(Counter(lesson.source for lesson in lessons for _ in lesson.exercises)),
        "by_form": dict(Counter(exercise.form for exercise in asked)) | {"ask": exercises - len(asked)},
        "by_reading": dict(Counter(lesson.reading for lesson in lessons for _ in lesson.exercises)),
        "by_passages": dict(sorted(Counter(len(lesson.passages) for lesson in lessons).items())),
        "oracle_share": round(sum(bool(e.oracles) for e in asked) / len(asked), 4) if asked else None,
    }


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    """As JSON, there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_card(path: Path) -> dict[str, Any]:
    """Raises InvalidLessons where there is none, or it is damaged."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidLessons(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise InvalidLessons(f"{path} is no card; expected an object")
    return card
