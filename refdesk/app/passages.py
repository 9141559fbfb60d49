"""Hits of a search, made into passages that can be read and cited."""

from collections.abc import Sequence

from sqlalchemy import Engine

from refdesk.reader.passage import Passage
from refdesk.retriever.documents import offset_maps
from refdesk.retriever.store import Hit


def passages_of(engine: Engine, hits: Sequence[Hit]) -> list[Passage]:
    """One of each hit whose document is still there, with its pages where the source has some."""
    maps = offset_maps(engine, {hit.document_id for hit in hits})
    passages = []
    for hit in hits:
        if hit.document_id not in maps:  # replaced in this moment
            continue
        pages = maps[hit.document_id] if maps[hit.document_id].unit == "page" else None
        passages.append(
            Passage(
                document_id=hit.source_id,
                title=hit.title,
                text=hit.text,
                start=hit.start,
                end=hit.end,
                score=hit.score,
                page=pages.locate(hit.start) if pages else None,
                page_starts=pages.within(hit.start, hit.end) if pages else (),
            )
        )
    return passages
