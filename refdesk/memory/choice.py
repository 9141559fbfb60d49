"""Which policy `auto` means."""

from refdesk.memory.options import MemoryOptions
from refdesk.memory.policies.infinipot import InfiniPot, InfiniPotQ
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.locret import Locret, LocretQ
from refdesk.memory.policy import MOST_OBSERVED, EvictionPolicy


def choose(
    asked: MemoryOptions, window: int, chunk: int, question: int, *, shared: bool, heads: bool, moves: bool
) -> MemoryOptions:
    """The best policy that can be had, with the size that `asked` names, or half of what a `chunk` leaves of the
    `window`, at least a quarter of it. `window`: the model's, or what the memory holds if that is fewer tokens.

    Locret where there are trained `heads`, else InfiniPot, which needs none. Either with the question in view,
    unless what is read is `shared` with other questions, or the tokens of `question` are too many: for InfiniPot
    to read them behind every chunk, for Locret to hold them twice in half of the budget. Where entries cannot be
    given other positions (`moves`), KV-Compress: the best of those that leave them.
    """
    policy: EvictionPolicy
    budget = asked.budget if asked.sized else max(window - chunk, window // 2) // 2
    if not moves:
        policy = KVCompress()
    elif heads:
        policy = Locret() if shared or (budget is not None and 4 * question > budget) else LocretQ()
    else:
        policy = InfiniPot() if shared or question > MOST_OBSERVED else InfiniPotQ()
    return MemoryOptions(policy, budget, asked.rate)
