"""How the engine is asked for an answer: the options of a question in the model's own tokens."""

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from refdesk.memory.options import MemoryOptions
from refdesk.reader.abstention import Abstention
from refdesk.reader.answer_form import NOT_FOUND, NOT_FOUND_OPENING, write_answer
from refdesk.reader.generation import GenerationRequest
from refdesk.reader.prompt import Prompt, encode_answer

if TYPE_CHECKING:  # torch takes seconds to import, and options are of the question
    from refdesk.reader.model import ReaderModel
    from refdesk.reader.qa import AnswerOptions


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """`reference`: the right answer's token ids, if one was given. `abstention`: what may be said in its place,
    where there is something to find it in and a threshold was given."""

    options: "AnswerOptions"
    reference: tuple[int, ...]
    abstention: Abstention | None

    @classmethod
    def of(cls, options: "AnswerOptions", model: "ReaderModel", *, open_book: bool) -> "AnswerPlan":
        """For `model`; `open_book`: there are passages or documents."""

        def tokens(answer: str) -> tuple[int, ...]:
            return encode_answer(write_answer(answer, "", options.form), model)

        reference = () if options.reference is None else tokens(options.reference)
        abstention = None
        if open_book and options.abstain is not None:
            said = tokens(NOT_FOUND)
            # A tokenizer that does not keep words apart may join the last of them with what follows.
            pairs = zip(said, tokens(NOT_FOUND_OPENING), strict=False)
            opening = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            abstention = Abstention(said, opening, options.abstain)
        return cls(options, reference, abstention)

    @property
    def room(self) -> int:
        """Tokens behind the prompt, at most."""
        opening = () if self.abstention is None else self.abstention.opening
        return max(self.options.room, len(self.reference), len(opening))

    def generation(self, prompt: Prompt, memory: MemoryOptions) -> GenerationRequest:
        """What is behind `prompt`, which is held as `memory` has it."""
        apart, policy, options = prompt.reading == "apart", memory.policy, self.options
        # The instructions are a run too, unless a policy is to weigh them against the rest of one text. One that
        # moves entries needs them where they are: in them lie the tokens where attention rests.
        shared = apart or policy is None or policy.compact
        return GenerationRequest(
            front=(prompt.system,) if shared else (),
            passages=prompt.passages if apart else (),
            token_ids=prompt.question if apart else prompt.token_ids[len(prompt.system) if shared else 0 :],
            memory=memory if apart else memory.holding(len(prompt.question)),
            max_new_tokens=options.room,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            stop=options.stop,
            continuations=(self.reference,) if self.reference else (),
            adapter=options.adapter,
            catalyst=prompt.catalyst,
            in_line=prompt.in_line,
            heads=options.heads if policy is not None and policy.learned else None,
            abstention=self.abstention,
        )
