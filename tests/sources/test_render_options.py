"""Options of rendered data sets: as the command, a run and a store have them."""

import json
from dataclasses import asdict

import pytest

from ethand_utils.data.store import StoreError
from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.run import Run
from ethand_utils.hands.rig import ANNY, WEBXR
from ethand_utils.rendering.options import DEFAULT_OPTIONS, SHARES, RenderOptions
from ethand_utils.sources import rendered
from ethand_utils.sources.request import ReadRequest

COUNTS = {"train": 2, "val": 1, "test": 1, "unpaired": 1, "size": 16}
ALL = RenderOptions("front", 0.6, 0.25, 1.0, 0.75, 0.5, 0.2)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_bounds_is_refused_in_one_line(name, value):
    with pytest.raises(EthandError, match=rf"^{name}: {value}, expected a number from 0 to 1$"):
        RenderOptions(**{name: value})


def test_unknown_views_are_refused_naming_the_nearest():
    with pytest.raises(EthandError, match=r"views 'fromt': unknown \(did you mean front\?\); expected one of round"):
        RenderOptions("fromt")


def test_options_are_in_every_stores_meta_and_make_it_another_store(tmp_path):
    stores = rendered.render_dataset(tmp_path / "d", **COUNTS, options=ALL)
    assert all(asdict(ALL).items() <= store.meta.items() for store in stores.values())
    assert rendered.render_dataset(tmp_path / "d", **COUNTS, options=ALL)["train"].meta == stores["train"].meta
    with pytest.raises(StoreError, match="other settings"):
        rendered.render_dataset(tmp_path / "d", **COUNTS)


def test_options_of_a_request_are_those_of_its_stores(tmp_path):
    stores = rendered.read(None, tmp_path / "d", ReadRequest(**COUNTS, options=ALL))
    assert asdict(ALL).items() <= stores["test"].meta.items()


def test_settings_of_a_run_are_the_options_of_its_request(monkeypatch, tmp_path):
    requests = []
    monkeypatch.setattr(rendered, "read", lambda root, out, request: requests.append(request) or {})
    for changes in ({}, asdict(ALL)):
        Run(tmp_path, load_profile("paper", changes)).dataset()
    assert [request.options for request in requests] == [DEFAULT_OPTIONS, ALL]


def test_the_command_has_a_flag_for_every_option(ethand, tmp_path):
    counts = [word for name, count in COUNTS.items() for word in (f"--{name}", count)]
    flags = [word for name, value in asdict(ALL).items() for word in (f"--{name.replace('_', '-')}", value)]
    status, _, _ = ethand("data", "render", "--out", tmp_path / "d", "--workers", 1, *counts, *flags)
    assert status == 0
    assert asdict(ALL).items() <= json.loads((tmp_path / "d/train/meta.json").read_text()).items()


def test_the_command_refuses_a_share_in_one_line_and_writes_nothing(ethand, tmp_path):
    status, _, errors = ethand("data", "render", "--out", tmp_path / "d", "--occluder-share", 2)
    assert status != 0
    assert errors.strip() == "ethand: occluder_share: 2.0, expected a number from 0 to 1"
    assert not (tmp_path / "d").exists()


def test_a_data_set_with_all_options_is_the_same_whatever_the_number_of_workers(tmp_path):
    counts = COUNTS | {"train": 9, "size": 24}
    options = RenderOptions(rotation_share=1, occluder_share=1, photo_share=1)
    for workers in (1, 2):
        rendered.render_dataset(tmp_path / str(workers), **counts, options=options, workers=workers)
    files = [file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*") if file.is_file()]
    assert len(files) > 10
    assert all((tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes() for file in files)


def test_people_have_the_second_rig_in_its_share():
    def rigs(share: float) -> list[str]:
        options = RenderOptions(second_rig_share=share)
        return [rendered.RenderedSample("train", 20, 16, 0, False, options)(i)["row"]["rig"] for i in range(20)]

    none, some, every = map(rigs, (0, 0.5, 1))
    assert (set(none), set(every)) == ({WEBXR}, {ANNY})
    assert 4 < some.count(ANNY) < 16
