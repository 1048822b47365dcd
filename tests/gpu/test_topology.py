"""`TopologyMapper`, compared with the output of `nvidia-smi topo -m` on real machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.distributed import Links, Topology, TopologyMapper
from tests.gpu import topologies
from tests.support import nvml

COMMAND = [sys.executable, "-m", "llamatelemetry.cli", "topology"]
SHAPES = ["eight_h100_nvswitch", "four_l40s_pcie", "five_geforce_pcie", "four_h100_direct"]


@pytest.fixture(autouse=True)
def no_nvidia_smi(monkeypatch, tmp_path):
    """Hide an installed nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def nvidia_smi(no_nvidia_smi: Path):
    """Return a function that installs an nvidia-smi with a fixed output."""

    def install(text: str, *, status: int = 0) -> None:
        (no_nvidia_smi / "answer").write_text(text)
        program = no_nvidia_smi / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\n[ "$*" = "topo -m" ] || exit 9\ncat "${{0%/*}}/answer"\nexit {status}\n'
        )
        program.chmod(0o755)

    return install


def rows(text: str) -> list[str]:
    """Return the matrix without the text that follows it."""
    return [line.rstrip() for line in text.split("\n\n", maxsplit=1)[0].splitlines()]


def without_nics(text: str) -> list[str]:
    """Return the output of the same machine without network adapters."""
    header, *lines = (row.split("\t") for row in rows(text))
    kept = [i for i, name in enumerate(header) if not name.startswith("NIC")]
    kept += range(len(header), max(map(len, lines)))  # the header of the NUMA nodes is wider
    return [
        "\t".join(row[i] for i in kept if i < len(row)).rstrip()
        for row in (header, *lines)
        if not row[0].startswith("NIC")
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_equals_output_of_nvidia_smi(driver_with, nvidia_smi, shape):
    driver_with(getattr(topologies, shape)())
    nvidia_smi(topologies.printed(shape))
    assert rows(str(TopologyMapper().detect())) == rows(topologies.printed(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_of_gpus_does_not_need_nvidia_smi(driver_with, shape):
    driver_with(getattr(topologies, shape)())
    assert rows(str(TopologyMapper().detect())) == without_nics(topologies.printed(shape))


def test_nic_legend_names_nics(driver_with, nvidia_smi):
    driver_with(topologies.four_l40s_pcie())
    nvidia_smi(topologies.printed("four_l40s_pcie"))
    text = str(TopologyMapper().detect())
    assert text.endswith("NIC Legend:\n\n  NIC0: mlx5_0\n  NIC1: mlx5_1")
    assert "PHB  = " in text


def test_parse_nics_accepts_underlined_header_and_old_nic_names(driver_with, nvidia_smi):
    driver_with(topologies.four_l40s_pcie())
    table, *_ = topologies.printed("four_l40s_pcie").split("\n\n")
    header, rest = table.split("\n", 1)
    old = f"\t\x1b[4m{header.strip()}\x1b[0m\n{rest}".replace("NIC", "mlx5_")
    nvidia_smi(old)
    topology = TopologyMapper().detect()
    assert [(nic.label, nic.name) for nic in topology.nics] == [
        ("mlx5_0", "mlx5_0"),
        ("mlx5_1", "mlx5_1"),
    ]
    assert topology.links(3, "mlx5_0").label == "NODE"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Failed to initialize NVML: Unknown Error\n", 0),
        (topologies.printed("four_l40s_pcie"), 255),
        ("", 0),
        ("GPU0", 0),
    ],
)
def test_failing_nvidia_smi_means_no_nics(driver_with, nvidia_smi, text, status):
    driver_with(topologies.four_l40s_pcie())
    nvidia_smi(text, status=status)
    topology = TopologyMapper().detect()
    assert topology.nics == ()
    assert len(topology.gpus) == 4


def test_links_reports_nvswitch_with_pcie_and_p2p(driver_with):
    driver_with(topologies.eight_h100_nvswitch())
    topology = TopologyMapper().detect()
    assert topology.links(0, 7) == Links(
        nvlinks=18,
        through_nvswitch=True,
        pcie="SYS",
        p2p={"read": "OK", "write": "OK", "nvlink": "OK", "atomics": "OK", "pcie": "NS"},
    )
    assert [gpu.nvlinks_active for gpu in topology.gpus] == [18] * 8


@pytest.mark.parametrize(
    "link",
    [
        {"remote_type": 255, "remote": "FFFFFFFF:FF:FF.0"},
        {"remote_type": None, "remote": None},
    ],
    ids=["unknown", "not reported"],
)
def test_hidden_switches_of_virtual_machines_count_as_switches(driver_with, link):
    machine = topologies.eight_h100_nvswitch(**link)
    for each in machine["devices"][0]["nvlinks"]:
        for key in [key for key, value in each.items() if value is None]:
            del each[key]
    driver_with(machine)
    links = TopologyMapper().detect().links("GPU0", "GPU5")
    assert (links.label, links.through_nvswitch) == ("NV18", True)


def test_inactive_nvlinks_do_not_count(driver_with):
    machine = topologies.four_h100_direct()
    for device in machine["devices"]:
        device["nvlinks"] = [dict(link) for link in device["nvlinks"]]
    for link in machine["devices"][0]["nvlinks"][:6]:  # links to GPU1
        link["active"] = 0
    for link in machine["devices"][1]["nvlinks"][:6]:
        link["active"] = 0
    driver_with(machine)
    topology = TopologyMapper().detect()
    assert topology.links(0, 1).label == "SYS"
    assert topology.links(0, 2) == topology.links(2, 0)
    assert (topology.links(0, 2).label, topology.links(0, 2).through_nvswitch) == ("NV6", False)


@pytest.mark.parametrize(("a", "b"), [(0, 3), ("GPU3", 0), (nvml.uuid(0), nvml.uuid(3))])
def test_links_accepts_index_label_or_uuid(driver_with, a, b):
    driver_with(topologies.four_l40s_pcie())
    links = TopologyMapper().detect().links(a, b)
    assert links.pcie == "SYS"
    assert links.p2p["nvlink"] == "NS"


@pytest.mark.parametrize("named", [(0, 9), ("GPU7", 0), (1, 1), (1, "GPU1"), (0, "mlx5_0")])
def test_links_raises_and_lists_devices_for_unknown_device(driver_with, named):
    driver_with(topologies.four_l40s_pcie())
    topology = TopologyMapper().detect()
    with pytest.raises(ValueError, match=r"GPU0, GPU1, GPU2, GPU3|which are both GPU1"):
        topology.links(*named)


@pytest.mark.parametrize(
    ("level", "word"),
    [(0, "PIX"), (10, "PIX"), (20, "PXB"), (30, "PHB"), (40, "NODE"), (50, "SYS"), (7, "N/A")],
)
def test_pcie_levels_have_names_of_nvidia_smi(driver_with, level, word):
    driver_with(nvml.machine(nvml.gpu(0), nvml.gpu(1, ancestors={"0": level})))
    assert TopologyMapper().detect().cell("GPU0", "GPU1") == word


def test_values_that_a_device_does_not_report_are_unknown(driver_with):
    machine = nvml.answers_almost_nothing()
    machine["devices"].append({"uuid": nvml.uuid(1)})
    driver_with(machine)
    topology = TopologyMapper().detect()
    assert topology.links(0, 1) == Links()
    assert rows(str(topology))[1] == "GPU0\t X \tN/A\tN/A\tN/A\t\tN/A"
    assert topology.to_dict()["gpus"][0] == {
        "label": "GPU0",
        "index": 0,
        "uuid": nvml.uuid(0),
        "name": None,
        "pci_bus_id": None,
        "cpu_affinity": None,
        "numa_affinity": None,
        "gpu_numa_node": None,
        "nvlinks_active": 0,
    }


def test_lost_gpu_does_not_hide_others(driver_with):
    driver_with(topologies.four_l40s_pcie()).lose(1)
    topology = TopologyMapper().detect()
    assert topology.labels == ("GPU0", "GPU2", "GPU3")
    assert topology.links(2, 3).pcie == "NODE"


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (nvml.machine(), "lists no GPU"),
        (nvml.machine(nvml.gpu(0), errors={"nvmlInitWithFlags": 999}), "NVML failed to start"),
        (nvml.machine(nvml.gpu(0), errors={"nvmlDeviceGetName": 1}), "NVML: "),
    ],
)
def test_topology_is_empty_with_reason_when_driver_lists_no_gpu(driver_with, machine, reason):
    driver_with(machine)
    topology = TopologyMapper().detect()
    assert topology.gpus == ()
    assert reason in topology.reason
    assert reason in str(topology)


def test_topology_is_empty_with_reason_without_a_driver():
    output = nvml.run_python(
        "from llamatelemetry.distributed import TopologyMapper\n"
        "topology = TopologyMapper().detect()\n"
        "print(topology.to_dict())\n"
        "print(topology)\n"
        "try: topology.links(0, 1)\n"
        "except ValueError as error: print(error)\n",
        None,
    )
    assert "'gpus': [], 'nics': [], 'links': []" in output
    assert "No GPU topology: libnvidia-ml.so.1 not found" in output
    assert "device must be one of none (libnvidia-ml.so.1 not found); got 0" in output


def test_to_dict_is_json_with_every_pair(driver_with, nvidia_smi):
    driver_with(topologies.four_l40s_pcie())
    nvidia_smi(topologies.printed("four_l40s_pcie"))
    found = json.loads(json.dumps(TopologyMapper().detect().to_dict()))
    assert [nic["name"] for nic in found["nics"]] == ["mlx5_0", "mlx5_1"]
    assert {(link["a"], link["b"]): link["label"] for link in found["links"]} == {
        ("GPU0", "GPU1"): "NODE",
        ("GPU0", "GPU2"): "SYS",
        ("GPU0", "GPU3"): "SYS",
        ("GPU1", "GPU2"): "SYS",
        ("GPU1", "GPU3"): "SYS",
        ("GPU2", "GPU3"): "NODE",
        ("GPU0", "NIC0"): "SYS",
        ("GPU0", "NIC1"): "SYS",
        ("GPU1", "NIC0"): "SYS",
        ("GPU1", "NIC1"): "SYS",
        ("GPU2", "NIC0"): "NODE",
        ("GPU2", "NIC1"): "NODE",
        ("GPU3", "NIC0"): "NODE",
        ("GPU3", "NIC1"): "NODE",
        ("NIC0", "NIC1"): "PIX",
    }
    assert found["gpus"][2]["cpu_affinity"] == "96-191,288-383"
    assert found["gpus"][2]["numa_affinity"] == "1"
    assert found["reason"] is None


@pytest.mark.needs("pandas")
def test_to_dataframe_contains_the_matrix(driver_with):
    driver_with(topologies.five_geforce_pcie())
    frame = TopologyMapper().detect().to_dataframe()
    assert frame.loc["GPU1", "GPU2"] == "PHB"
    assert frame.loc["GPU0", "GPU0"] == "X"
    assert frame.loc["GPU0", "CPU Affinity"] == "8-15,24-31"
    assert list(frame.index) == [f"GPU{i}" for i in range(5)]


@pytest.mark.needs("pandas")
def test_to_dataframe_of_empty_topology_is_empty():
    frame = Topology(reason="no driver").to_dataframe()
    assert frame.empty
    assert frame.attrs["reason"] == "no driver"


def test_to_dataframe_names_install_command_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        Topology().to_dataframe()


def test_command_prints_matrix_and_json(driver_with):
    driver = driver_with(topologies.four_h100_direct())
    environment = os.environ | driver.environment
    text = subprocess.check_output(COMMAND, text=True, env=environment)
    assert rows(text) == without_nics(topologies.printed("four_h100_direct"))
    shown = subprocess.check_output([*COMMAND, "--json"], text=True, env=environment)
    assert len(json.loads(shown)["links"]) == 6


def test_command_exits_with_0_without_a_gpu(driver_with):
    environment = os.environ | driver_with(nvml.machine()).environment
    text = subprocess.check_output(COMMAND, text=True, env=environment)
    assert "No GPU topology: the NVIDIA driver is installed, but lists no GPU" in text
    shown = subprocess.check_output([*COMMAND, "--json"], text=True, env=environment)
    assert json.loads(shown)["gpus"] == []
