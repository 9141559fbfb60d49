"""Choosing the next token from a row of logits."""

import torch


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (arXiv 1904.09751) with a generator of its own, so a seed
    gives the same tokens whatever else the process samples. Sampling runs on the CPU in float32: a seed means
    the same on every device."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        # So small a one takes the likeliest token; a smaller one would make infinities of logits.
        self._temperature = max(temperature, 1e-6) if temperature else 0
        self._top_p = top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token of `logits` `[vocabulary]`."""
        if self._temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        if self._top_p < 1:
            ordered, ids = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered[before >= self._top_p] = 0  # the first is always kept: nothing comes before it
            return int(ids[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
