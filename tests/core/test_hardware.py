import pytest
import torch

from gnnscale.core import ops
from gnnscale.core.errors import UsageError
from gnnscale.core.hardware import Hardware, cores


def test_threads_and_kernel_are_applied():
    before = torch.get_num_threads()
    try:
        Hardware(threads=1, kernel="numba").apply()
        assert torch.get_num_threads() == 1
        assert ops.backend("total", torch.device("cpu")) is ops.numba_kernels
    finally:
        Hardware(threads=before).apply()
    assert Hardware().threads == cores()


@pytest.mark.parametrize(
    ("device", "said"), [("cuda:99", "hardware=cpu"), ("mps", "cpu, cuda"), ("toaster", "valid")]
)
def test_devices_that_are_not_there_are_refused(device, said):
    with pytest.raises(UsageError, match=said):
        Hardware(device=device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_accepted_where_it_is():
    assert Hardware(device="cuda").device.type == "cuda"
