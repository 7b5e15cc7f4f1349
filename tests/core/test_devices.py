"""The table of accelerators, by the names that their drivers give them."""

import pytest

from vdm_jax.core import devices

KINDS = {
    "NVIDIA H200": "H200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100 80GB PCIe": "A100 80GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": "L40",
    "NVIDIA L4": "L4",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-32GB": "V100 32GB",
    "TPU v5 lite": "TPU v5e",
    "TPU v5": "TPU v5p",
    "TPU v6 lite": "TPU v6e",
    "TPU7x": "TPU7x",
}


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_a_device_is_found_by_what_its_driver_calls_it(kind, name):
    found = devices.known(kind)
    assert found is not None and found.name == name


def test_no_name_hides_another_and_other_devices_are_not_known():
    for accelerator in devices.ACCELERATORS:
        assert [devices.known(name) for name in accelerator.names] == [accelerator] * len(
            accelerator.names
        )
    assert devices.known("cpu") is None


def test_the_devices_of_a_chip_share_its_figures():
    v3 = devices.known("TPU v3")
    assert v3 is not None and v3.cores == 2
    assert v3.flops == pytest.approx(61.5e12)
    assert v3.bytes_per_second == pytest.approx(0.45e12)
    assert v3.memory_bytes == pytest.approx(15.48 * 2**30, rel=1e-3)
