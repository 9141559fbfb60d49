"""The policies by name. A new one is a file beside these and a line in the table."""

from refdesk.memory.policies.infinipot import InfiniPot, InfiniPotQ
from refdesk.memory.policies.kv_compress import KVCompress
from refdesk.memory.policies.locret import Locret, LocretQ
from refdesk.memory.policies.random import Random
from refdesk.memory.policies.snapkv import SnapKV
from refdesk.memory.policies.streaming import Streaming
from refdesk.memory.policy import EvictionPolicy

POLICIES: dict[str, type[EvictionPolicy]] = {
    policy.name: policy
    for policy in (KVCompress, SnapKV, Streaming, Random, Locret, LocretQ, InfiniPot, InfiniPotQ)
}
