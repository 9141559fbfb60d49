"""What of several documents an answer has attended to most."""

import numpy as np
import torch

from refdesk.reader.whole_documents import most_attended, most_attended_of_all


def test_stretches_of_several_documents_are_ranked_together() -> None:
    starts = [np.asarray([0, 4, 8], dtype=np.int32), np.asarray([0, 5], dtype=np.int32)]
    spans = [[(0, 8), (8, 20)], [(0, 5), (5, 7)]]
    attended = [torch.tensor([0.1, 0.3, 0.9]), torch.tensor([1.0, 0.5])]
    assert most_attended_of_all(attended, starts, spans, 3) == [(1, 0), (0, 1), (1, 1)]
    assert most_attended_of_all(attended[:1], starts[:1], spans[:1], 9) == [(0, 1), (0, 0)]
    assert most_attended(attended[0], starts[0], spans[0], 9) == [1, 0]
    # One of which nothing is there any more.
    assert most_attended_of_all(attended, starts, [[], spans[1]], 3) == [(1, 0), (1, 1)]
