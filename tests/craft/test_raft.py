"""RAFT lessons: what is asked over which passages, and what of them may be quoted."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from refdesk.craft.errors import InvalidRecipe
from refdesk.craft.lesson import Exercise, Lesson
from refdesk.craft.question import SourceQuestion, holds
from refdesk.craft.raft import ASK, hold_out, make_lessons
from refdesk.craft.recipe import DataRecipe
from refdesk.reader.answer_form import NOT_FOUND, read_answer
from tests.craft.worlds import hall, keys, passage, question, questions

PLAIN = DataRecipe(distractors=(3,), ask_share=0.0)
MIXED = DataRecipe(quote_share=0.5, ask_share=1.0)
WORLD = [question(number, 300, kind) for number in range(300) for kind in ("keeper", "colour")] + [
    question(number, 300, "roof", answerable=False) for number in range(0, 300, 3)
]


def made(asked: list[SourceQuestion], recipe: DataRecipe) -> list[Lesson]:
    return list(make_lessons(asked, recipe, "halls"))


def answering(lessons: list[Lesson]) -> list[tuple[Lesson, Exercise]]:
    return [(lesson, one) for lesson in lessons for one in lesson.exercises if one.kind == "answer"]


def share(lessons: list[Lesson]) -> float:
    """Of the questions, those asked over passages that hold the answer."""
    asked = answering(lessons)
    return sum(bool(one.oracles) for _, one in asked) / len(asked)


@pytest.mark.parametrize("oracle_share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("distractors", [0, 1, 3, 9])
def test_a_lesson_has_exactly_one_passage_more_than_distractors_whatever_the_share(
    oracle_share: float, distractors: int
) -> None:
    lessons = made(WORLD, replace(PLAIN, oracle_share=oracle_share, distractors=(distractors,)))
    assert {len(lesson.passages) for lesson in lessons} == {distractors + 1}


def test_ten_passages_and_three_distractors_without_and_with_the_oracle() -> None:
    ten = questions(10, distractors=3)
    for lesson, one in answering(made(ten, replace(PLAIN, oracle_share=0.0, most_exercises=1))):
        assert len(set(keys(lesson.passages))) == len(lesson.passages) == 4
        number = int(one.id.split("-")[1])
        assert hall(number) not in lesson.passages and one.oracles == ()
    for lesson, one in answering(made(ten, replace(PLAIN, oracle_share=1.0, most_exercises=1))):
        assert len(set(keys(lesson.passages))) == len(lesson.passages) == 4
        assert lesson.passages[one.oracles[0]] == hall(int(one.id.split("-")[1]))


@pytest.mark.parametrize("seed", range(5))
def test_of_a_thousand_questions_the_share_asked_with_the_oracle_is_p(seed: int) -> None:
    # 0.775 to 0.825 holds 95 % of fair draws, this 99.9 % of them.
    found = share(made(questions(1000), replace(PLAIN, oracle_share=0.8, seed=seed)))
    assert abs(found - 0.8) <= (0.025 if seed == 0 else 0.042)


@pytest.mark.parametrize(("oracle_share", "expected"), [(0.8, 0.5), (0.5, 0.5), (0.3, 0.3), (0.0, 0.0)])
def test_with_half_of_them_unanswerable_the_share_is_as_near_to_p_as_can_be(
    oracle_share: float, expected: float
) -> None:
    found = share(made(questions(1000, unanswerable=500), replace(PLAIN, oracle_share=oracle_share)))
    assert abs(found - expected) <= (0.025 if 0 < oracle_share < 0.5 else 0)


@pytest.mark.parametrize("recipe", [PLAIN, MIXED, replace(MIXED, oracle_share=0.4, most_exercises=3)])
def test_no_passage_stands_twice_in_a_lesson_and_each_question_is_asked_once(recipe: DataRecipe) -> None:
    lessons = made(WORLD, recipe)
    for lesson in lessons:
        assert len(set(keys(lesson.passages))) == len(lesson.passages)
        assert len(lesson.passages) in {count + 1 for count in recipe.distractors}
        assert lesson.source == "halls"
    assert sorted(one.id for _, one in answering(lessons)) == sorted(one.id for one in WORLD)


def test_the_oracle_stands_anywhere_with_equal_chance() -> None:
    recipe = replace(PLAIN, oracle_share=1.0, distractors=(4,), most_exercises=1)
    counts = Counter(one.oracles[0] for _, one in answering(made(questions(2000), recipe)))
    assert sum(counts.values()) == 2000
    chi_square = sum((counts[place] - 400) ** 2 / 400 for place in range(5))
    assert chi_square < 13.28  # 99 %, 4 degrees of freedom


@pytest.mark.parametrize("recipe", [PLAIN, MIXED, replace(MIXED, oracle_share=1.0, apart_share=1.0)])
def test_what_is_asked_with_the_oracle_names_it_and_quotes_it_to_the_letter(recipe: DataRecipe) -> None:
    by_id = {one.id: one for one in WORLD}
    quoted = 0
    for lesson, one in answering(made(WORLD, recipe)):
        if one.oracles:
            asked = by_id[one.id]
            assert [lesson.passages[index] for index in one.oracles] == list(asked.oracles)
            written = read_answer(one.target, one.form)
            assert (written.text, written.well_formed) == (asked.answers[0], True)
            assert len(written.quotes) == (one.form == "quote")
            for quote in written.quotes:
                quoted += 1
                assert any(quote in oracle.text for oracle in asked.oracles)
                assert asked.answers[0] in quote
    assert quoted > 50


@pytest.mark.parametrize("recipe", [PLAIN, MIXED, replace(MIXED, oracle_share=0.2, apart_share=1.0)])
def test_what_is_asked_without_the_oracle_cannot_be_found_and_nothing_is_quoted(recipe: DataRecipe) -> None:
    by_id = {one.id: one for one in WORLD}
    forms: Counter[str] = Counter()
    for lesson, one in answering(made(WORLD, recipe)):
        if not one.oracles:
            asked = by_id[one.id]
            assert not any(holds(shown.text, asked.answers) for shown in lesson.passages)
            assert not set(keys(asked.oracles)) & set(keys(lesson.passages))
            written = read_answer(one.target, one.form)
            assert (written.text, written.quotes, written.well_formed) == (NOT_FOUND, (), True)
            forms[one.form] += 1
    assert forms["quote"] > 20 and forms["short"] > 20


@pytest.mark.parametrize("oracle_share", [0.0, 0.5])
def test_whoever_is_asked_over_the_passages_of_another_question_cannot_answer_there_either(
    oracle_share: float,
) -> None:
    painted = [passage(f"Hall {n}", f"Hall {n} was painted {('red', 'blue', 'green')[n % 3]}.") for n in range(60)]
    asked = []
    for n in range(60):
        others = [painted[(n + step) % 60] for step in (1, 2, 4, 5, 7)]  # of another colour
        colour = ("red", "blue", "green")[n % 3]
        asked.append(
            SourceQuestion(f"colour-{n}", f"How was {n} painted?", (colour,), (painted[n],), tuple(others))
        )
        everything = tuple(painted[(n + step) % 60] for step in range(1, 6))
        asked.append(SourceQuestion(f"was-{n}", f"Was {n} painted?", ("yes",), (painted[n],), everything))
    by_id = {one.id: one for one in asked}
    lessons = made(asked, replace(PLAIN, oracle_share=oracle_share, distractors=(1, 3)))
    assert len(lessons) < 100  # so there are some who are asked besides
    for lesson, one in answering(lessons):
        if not one.oracles:
            assert not set(keys(by_id[one.id].oracles)) & set(keys(lesson.passages))
            assert not any(holds(shown.text, by_id[one.id].answers) for shown in lesson.passages)


@pytest.mark.parametrize("answer", ["ten", "U2", "7%", "Keeper"])
def test_a_short_answer_is_held_by_no_passage_either(answer: str) -> None:
    oracle = passage("Own", f"It is {answer}, they say.")
    liars = [passage(f"Liar {number}", f"Here {answer} is said too, {number}.") for number in range(40)]
    silent = [passage(f"Silent {number}", f"Nothing is said here, {number}.") for number in range(4)]
    asked = SourceQuestion("q", "What is it?", (answer,), (oracle,), (*liars, *silent))
    for oracle_share in (0.0, 1.0):
        (lesson,) = made([asked], replace(PLAIN, oracle_share=oracle_share))
        assert set(keys(lesson.passages)) - set(keys(silent)) == (set(keys([oracle])) if oracle_share else set())


def test_a_no_stands_in_any_passage_and_gives_nothing_away() -> None:
    halls = [passage(f"Hall {number}", f"There is no roof in hall {number}.") for number in range(6)]
    asked = SourceQuestion("q", "Is it open?", ("no",), (halls[0],), tuple(halls[1:]))
    (lesson,) = made([asked], replace(PLAIN, oracle_share=1.0, quote_share=1.0))
    assert len(lesson.passages) == 4
    # A sentence that has a "no" in it is no reason for one.
    assert (lesson.exercises[0].target, lesson.exercises[0].form) == ("no", "short")


def test_the_hard_distractors_come_before_any_others() -> None:
    for lesson, one in answering(made(WORLD, replace(PLAIN, most_exercises=1))):
        asked = next(other for other in WORLD if other.id == one.id)
        hardest = asked.distractors[: 4 - len(one.oracles)]
        assert set(keys(lesson.passages)) == set(keys(asked.oracles if one.oracles else ())) | set(keys(hardest))


def test_the_passages_without_the_answer_are_found_where_there_is_hardly_one() -> None:
    others = [question(number, 500, distractors=1) for number in range(500)]
    oracle = passage("Own", "The answer is said in hall 0, and in the others.")
    asked = SourceQuestion("common", "Where?", ("hall",), (oracle,))
    lonely = SourceQuestion("lonely", "What?", ("not told",), (passage("Lonely", "This is not told of."),))
    recipe = replace(PLAIN, oracle_share=0.0, distractors=(0,), most_exercises=1)
    (lesson,) = [lesson for lesson in made([asked, lonely, *others], recipe) if lesson.exercises[0].id == "common"]
    assert keys(lesson.passages) == keys(lonely.oracles)


def test_all_oracles_of_a_question_over_several_passages_are_there() -> None:
    several = [
        SourceQuestion(f"hops-{n}", f"Who, and which, {n}?", (f"Keeper{n}",), tuple(hall(n + i) for i in range(3)))
        for n in range(0, 90, 3)
    ]
    for distractors, size in ((0, 3), (1, 3), (2, 3), (3, 4), (6, 7)):
        recipe = replace(PLAIN, distractors=(distractors,), oracle_share=1.0, most_exercises=1)
        for lesson, one in answering(made(several, recipe)):
            first = int(one.id.split("-")[1])
            assert len(lesson.passages) == len(set(keys(lesson.passages))) == size
            assert [lesson.passages[i] for i in one.oracles] == [hall(first + i) for i in range(3)]
    # Without them all three are away.
    for lesson, one in answering(made(several, replace(PLAIN, oracle_share=0.0))):
        first = int(one.id.split("-")[1])
        assert one.oracles == () and not {hall(first + i) for i in range(3)} & set(lesson.passages)


def test_too_few_passages_name_the_question_and_how_many_there_are() -> None:
    with pytest.raises(InvalidRecipe, match=r"distractors is 3.*question 'keeper-[01]'.*only 1 passages without"):
        made(questions(2), replace(PLAIN, oracle_share=1.0))
    with pytest.raises(InvalidRecipe, match=r"question 'hops'.*only 0 passages"):
        asked = SourceQuestion("hops", "Who?", ("Keeper0",), (hall(0), hall(1)))
        made([asked], replace(PLAIN, oracle_share=1.0))


@pytest.mark.parametrize("most", [1, 2, 5, 8])
def test_a_lesson_has_no_more_exercises_than_the_recipe_allows(most: int) -> None:
    own = hall(0)
    many = [SourceQuestion(f"q-{n}", f"Who keeps it, {n}?", ("Keeper0",), (own,)) for n in range(30)]
    recipe = DataRecipe(distractors=(0,), oracle_share=1.0, ask_share=1.0, most_exercises=most)
    lessons = made(many, recipe)
    assert all(1 <= len(lesson.exercises) <= most for lesson in lessons)
    assert len(lessons) == -(-30 // most)  # and no fewer
    assert sorted(one.id for _, one in answering(lessons)) == sorted(one.id for one in many)


def test_to_ask_is_taught_over_one_passage_that_answers() -> None:
    lessons = made(WORLD, replace(MIXED, most_exercises=4))
    by_question = {one.question: one for one in WORLD}
    taught = 0
    for lesson in lessons:
        asking = [one for one in lesson.exercises if one.kind == "ask"]
        able = [one for one in lesson.exercises if one.kind == "answer" and one.oracles]
        assert len(asking) <= 1
        if len(lesson.passages) == 1 and able and len(lesson.exercises) - len(asking) < 4:
            assert len(asking) == 1
        for one in asking:
            taught += 1
            asked, answer = one.target.removeprefix("Question: ").split("\nAnswer: ")
            assert (one.question, one.form, one.oracles, len(lesson.passages)) == (ASK, "short", (0,), 1)
            assert asked in {other.question for other in able}
            assert by_question[asked].answers[0] == answer and answer in lesson.passages[0].text
    assert taught > 50
    without = made(WORLD, replace(MIXED, ask_share=0.0))
    assert all(one.kind == "answer" for lesson in without for one in lesson.exercises)


def test_half_of_the_lessons_are_read_apart_and_as_many_answers_quote_as_asked() -> None:
    lessons = made(questions(1000), replace(PLAIN, most_exercises=1, quote_share=0.3))
    apart = sum(lesson.reading == "apart" for lesson in lessons) / len(lessons)
    quoting = sum(one.form == "quote" for _, one in answering(lessons)) / 1000
    assert abs(apart - 0.5) < 0.05 and abs(quoting - 0.3) < 0.05


def test_a_lesson_does_not_hang_on_the_scores_of_the_search() -> None:
    scored = [replace(one, oracles=tuple(replace(p, score=0.7) for p in one.oracles)) for one in WORLD]
    assert made(scored, MIXED) == made(WORLD, MIXED)


def test_one_seed_makes_one_set_of_lessons_and_another_seed_another() -> None:
    assert made(WORLD, MIXED) == made(WORLD, MIXED)
    assert made(WORLD, MIXED) != made(WORLD, replace(MIXED, seed=1))


def test_the_lessons_do_not_hang_on_the_hashes_of_the_process() -> None:
    code = (
        "import hashlib, msgspec; from tests.craft.test_raft import MIXED, WORLD, made;"
        "print(hashlib.sha256(msgspec.json.encode(made(WORLD, MIXED))).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1 and len(told.pop().strip()) == 64


def test_each_round_asks_every_question_once_over_other_passages() -> None:
    recipe = replace(MIXED, rounds=3, ask_share=0.0)
    asked = [(one.id, keys(lesson.passages)) for lesson, one in answering(made(WORLD, recipe))]
    assert Counter(name for name, _ in asked) == {one.id: 3 for one in WORLD}
    over = {name: {frozenset(some) for other, some in asked if other == name} for name in ("keeper-0", "colour-7")}
    assert all(len(some) == 3 for some in over.values())
    first = made(WORLD, replace(recipe, rounds=1))
    assert made(WORLD, recipe)[: len(first)] == first


def test_in_some_round_a_question_has_its_oracle_and_in_some_it_has_not() -> None:
    lessons = made(questions(50), replace(PLAIN, oracle_share=0.5, rounds=8))
    found = {name: [bool(e.oracles) for _, e in answering(lessons) if e.id == name] for name in ("keeper-1",)}
    assert set(found["keeper-1"]) == {True, False}


def test_a_long_answer_is_taught_in_the_long_form_whether_the_passages_hold_it_or_not() -> None:
    long = "The keeper told them of it at length, and they wrote it down. " * 4
    asked = [replace(one, answers=(long,)) if n % 2 else one for n, one in enumerate(questions(200))]
    found = answering(made(asked, replace(PLAIN, oracle_share=0.5)))
    lengths = {one.id: len(one.answers[0]) for one in asked}
    assert {lengths[one.id] > 200 for _, one in found if one.form == "long"} == {True}
    assert {lengths[one.id] > 200 for _, one in found if one.form == "short"} == {False}
    assert {one.target for _, one in found if one.form == "long"} == {long, NOT_FOUND}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_questions_about_one_passage_are_held_out_together(share: float) -> None:
    learned, held = hold_out(WORLD, share, seed=1)
    assert Counter(one.id for one in (*learned, *held)) == Counter(one.id for one in WORLD)
    wanted = min(share * len(WORLD), len(WORLD) - 3)  # something is left to learn from
    assert wanted <= len(held) <= wanted + 2
    about = [{keys(one.oracles)[0] for one in some if one.oracles} for some in (learned, held)]
    assert not about[0] & about[1]
    assert (learned, held) == hold_out(WORLD, share, seed=1)
    assert share in (0.0, 1.0) or held != hold_out(WORLD, share, seed=2)[1]


def test_questions_about_one_passage_alone_are_all_learned_from() -> None:
    same = [replace(question(0, 30), id=str(number)) for number in range(20)]
    assert hold_out(same, 0.1, seed=1) == (same, [])


def test_passages_of_other_questions_may_be_distractors() -> None:
    asked, others = [replace(question(0, 30), distractors=())], questions(30)[1:]
    with pytest.raises(InvalidRecipe, match="only 0"):
        made(asked, replace(PLAIN, oracle_share=1.0))
    (lesson,) = make_lessons(asked, replace(PLAIN, oracle_share=1.0), "halls", beside=others)
    assert len(lesson.passages) == 4 and len(lesson.exercises) == 1
