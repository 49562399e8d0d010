"""`l2gnet finetune`, as people and scripts meet it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from total_segmentator import write_total_segmentator

from l2gnet_core.commands import parts
from l2gnet_core.errors import InputError
from l2gnet_core.files import read_label_text, read_volume, write_labels
from l2gnet_core.finetuning import config as settings
from l2gnet_core.finetuning.files import CorrectedFiles, read_correction
from l2gnet_core.finetuning.guard import Limits
from l2gnet_core.finetuning.run import finetune
from l2gnet_core.models.checkpoint import MODEL_FILE, load_model, save_model
from l2gnet_core.models.weights import weights_hash
from l2gnet_core.scans.labels import LabelSet

SHAPE = (5, 40, 44)


@pytest.fixture
def labels() -> np.ndarray:
    """Smooth organs 1 to 3, all in every slice."""
    z, y, x = np.mgrid[0:5, 0:40, 0:44]
    distance = np.hypot(y - 18 - z, x - 20)
    return np.select([distance < 5, distance < 9, distance < 13], [3, 2, 1], 0).astype(np.uint8)


@pytest.fixture
def files(save_scan, labels, tmp_path):
    image = 60 * labels + np.random.default_rng(0).normal(0, 5, SHAPE)
    return (
        save_scan(tmp_path / "patient7" / "scan.nii.gz", image.astype(np.float32)),
        save_scan(tmp_path / "patient7" / "labels.nii.gz", labels),
    )


@pytest.fixture
def run(l2gnet, files, model_file, tmp_path):
    """Fine-tune for two steps, with `--json`; returns the report."""

    def run(*more, slices="1,3", out=None, scan=files) -> dict:
        code, told, err = l2gnet(
            "finetune", *scan, "--slices", slices, "--model", model_file, "--steps", 2,
            "-o", out or tmp_path / "new", "--device", "cpu", "--json", *more,
        )  # fmt: skip
        assert code == 0, err
        return json.loads(told)

    return run


def written(folder) -> tuple[str, str]:
    """Weights and card of a model file; its bytes vary, because its header has no fixed order."""
    model = load_model(folder)
    return weights_hash(model.network), json.dumps(model.card.to_json())


def test_the_rest_of_the_scan_is_segmented_around_the_corrected_slices(
    run, files, labels, tmp_path
):
    told = run("--mask", tmp_path / "mask.nii.gz")
    mask = np.asarray(read_volume(tmp_path / "mask.nii.gz").data)
    np.testing.assert_array_equal(mask[[1, 3]], labels[[1, 3]])
    assert told["mask"]["mask"] == str(tmp_path / "mask.nii.gz")
    counts = {one["id"]: one["voxels"] for one in told["mask"]["labels"]}
    assert counts == {id: int((mask == id).sum()) for id in (1, 2, 3)}


def test_it_is_told_what_is_done_after_learning(l2gnet, files, model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SECONDS_BETWEEN_LINES", 0.0)
    code, _, err = l2gnet(
        "finetune", *files, "--slices", "1,3", "--model", model_file, "--steps", 2,
        "-o", tmp_path / "new", "--mask", tmp_path / "mask.nii.gz",
    )  # fmt: skip
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("Fine-tuning")]
    assert any(line.endswith(": checking") for line in lines)
    assert lines[-1] == "Fine-tuning 80%: segmenting"


@pytest.mark.parametrize("place", [0, 1], ids=["scan", "labels"])
def test_a_mask_in_the_place_of_what_was_given_is_refused_before_anything_is_learnt(
    refused, files, labels, model_file, tmp_path, place
):
    # A mask that l2gnet wrote, in which a person then corrects some slices.
    write_labels(files[1], labels, read_volume(files[1]), {1: "a", 2: "b", 3: "c"}, {})
    told = refused(
        "finetune", *files, "--slices", "1", "--model", model_file, "-o", tmp_path / "new",
        "--mask", files[place],
    )  # fmt: skip
    assert "Expected another place" in told
    assert not (tmp_path / "new").exists()


def keep_all(monkeypatch) -> None:
    """Switch the guard off, because two steps may make an untrained model worse."""
    for kind in ("SCAN", "ORGAN", "PROJECT"):
        config = getattr(settings, kind)
        config = replace(config, limits=Limits(-1, 1, 1, 1, 1), mixes=(0.5,), mix_tolerance=1.0)
        monkeypatch.setattr(settings, kind, config)


def test_only_the_named_slices_of_labels_are_read(
    run, files, labels, save_scan, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    garbage = np.random.default_rng(1).normal(0, 1e6, SHAPE)
    garbage[2] = np.nan
    garbage[[1, 3]] = labels[[1, 3]]
    # Fractions, negative values and NaN in slices that are not listed do not matter.
    odd = save_scan(tmp_path / "odd.nii.gz", garbage)
    for name, truth in (("one", files[1]), ("other", odd)):
        assert run("--seed", 3, out=tmp_path / name, scan=(files[0], truth))["kept"]
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert one == other
    run("--seed", 4, out=tmp_path / "again")
    assert written(tmp_path / "again") != one


def test_what_was_kept_is_told_and_can_be_used(
    run, l2gnet, files, model_file, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    out = tmp_path / "folder" / "mine.safetensors"
    report = run(out=out)
    assert report["kept"] is True
    assert report["reason"].startswith("Kept")
    assert report["evidence"]["slices"] == 2
    # The tiny model knows nothing that is worth keeping.
    assert report["evidence"]["anew"]
    assert report["evidence"]["mix"] == 1.0
    assert report["evidence"]["dice"]["before"].keys() == report["evidence"]["dice"]["after"].keys()
    assert report["new"] == []
    assert report["steps"] == 2
    old, new = load_model(model_file), load_model(out)
    assert report["model"] == new.card.name != old.card.name
    (entry,) = new.card.history
    assert entry["parent_sha256"] == weights_hash(old.network)
    assert entry["settings"]["kind"] == "scan"
    # Neither the patient's name nor the scan's path is stored.
    content = out.read_bytes()
    assert b"patient7" not in content
    assert str(tmp_path).encode() not in content
    mask = tmp_path / "mask.nii.gz"
    code, *_ = l2gnet("segment", files[0], "-o", mask, "--model", out)
    assert code == 0


def test_what_was_rolled_back_is_told_and_the_old_model_written(
    run, model_file, tmp_path, monkeypatch
):
    strict = replace(settings.SCAN, limits=Limits(least_gain=1.0))
    monkeypatch.setattr(settings, "SCAN", strict)
    report = run()
    assert report["kept"] is False
    assert report["reason"].endswith("The old model is kept.")
    assert report["model"] == "tiny"
    assert written(tmp_path / "new") == written(model_file)


def test_new_organs_keep_their_names_in_the_mask_if_the_old_model_is_kept(
    run, labels, files, tmp_path, monkeypatch
):
    strict = replace(settings.ORGAN, limits=Limits(least_gain=1.0))
    monkeypatch.setattr(settings, "ORGAN", strict)
    labels[1, 30:], labels[1, :3], labels[1, :3, :3] = 7, 44, 9
    truth, mask = tmp_path / "named.nii.gz", tmp_path / "mask.nii.gz"
    write_labels(truth, labels, read_volume(files[0]), {7: "papillary muscle"})
    told = run("--mask", mask, "--names", "44=spleen", scan=(files[0], truth))
    assert (told["kept"], told["model"]) == (False, "tiny")
    new = {7: "papillary muscle", 9: "structure 9", 44: "spleen"}
    text = read_label_text(mask)
    assert text.names == load_model(tmp_path / "new").card.labels.names | new
    assert text.colors[7] == LabelSet.from_names(new).colors[7]
    found = read_volume(mask).data
    counts = {one["name"]: one["voxels"] for one in told["mask"]["labels"] if one["id"] in new}
    assert counts == {name: int((labels[[1, 3]] == id).sum()) for id, name in new.items()}
    assert all((found == id).sum() == counts[name] for id, name in new.items())
    assert (
        "tiny does not have papillary muscle, structure 9, spleen: found in the corrected slices "
        "alone."
    ) in told["mask"]["warnings"]


def test_a_model_that_came_there_meanwhile_is_not_written_over(
    l2gnet, files, model_file, tmp_path, monkeypatch
):
    def learn(*arguments):
        # As if another process had begun at the same moment and ended first.
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / MODEL_FILE).write_bytes(b"of another")
        yield from finetune(*arguments)

    monkeypatch.setattr("l2gnet_core.finetuning.run.finetune", learn)
    code, out, err = l2gnet(
        "finetune", *files, "--slices", "2", "--model", model_file, "--steps", 1,
        "-o", tmp_path / "m", "--mask", tmp_path / "mask.nii.gz",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "holds one already" in err
    assert (tmp_path / "m" / MODEL_FILE).read_bytes() == b"of another"
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_model_that_cannot_be_written_leaves_nothing(run, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AssertionError, match="No space left"):
        run()
    assert list((tmp_path / "new").iterdir()) == []


def test_without_json_it_says_why(l2gnet, files, model_file, tmp_path):
    code, out, err = l2gnet(
        "finetune", *files, "--slices", "2", "--model", model_file, "--steps", 1,
        "-o", tmp_path / "m",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out == (
        f"{tmp_path / 'm'}: Kept on weak evidence: a single corrected slice cannot show "
        "whether the other slices got better. Correct a second slice to find out. The old model "
        "hardly knew this scan, so the new one learnt it again from your slices alone.\n"
    )


def test_new_organs_are_named_and_segmented_by(
    run, labels, save_scan, files, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    labels[labels == 2], labels[1, :3, :3], labels[1, 30:] = 7, 5, 9
    truth = save_scan(tmp_path / "new.nii.gz", labels)
    report = run("--names", "7=liver", "--unmarked", 9, scan=(files[0], truth))
    assert report["new"] == [5, 7]
    assert report["labels"] == {
        "1": "right ventricle",
        "2": "myocardium",
        "3": "left ventricle",
        "5": "structure 5",
        "7": "liver",
    }
    card = load_model(tmp_path / "new").card
    assert card.labels.names[7] == "liver"
    assert load_model(tmp_path / "new").network.config.classes == 6


def test_new_organs_are_told_before_they_are_learnt(
    l2gnet, files, labels, save_scan, model_file, tmp_path
):
    def said(*more) -> str:
        code, _, err = l2gnet(
            "finetune", files[0], truth, "--slices", "1,3", "--model", model_file, "--steps", 1,
            "-o", tmp_path / f"new{len(more)}", *more,
        )  # fmt: skip
        assert code == 0
        return err

    labels[1:4, :3], labels[1:4, 30:] = 4, 255
    truth = save_scan(tmp_path / "scribbles.nii.gz", labels)
    named = "--names", "4=papillary muscle"
    assert said(*named) == (
        "New organs: 4 papillary muscle, 255 structure 255\n"
        "warning: nothing names 255: --names gives organs their names, and --unmarked leaves out "
        "unknown voxels.\n"
    )
    assert said(*named, "--unmarked", 255) == "New organs: 4 papillary muscle\n"


def test_names_in_the_label_file_serve_new_organs(run, labels, files, tmp_path, monkeypatch):
    keep_all(monkeypatch)
    labels[labels == 2], labels[1, :3, :3] = 7, 5
    truth = tmp_path / "named.nii.gz"
    # What structures without a name are called is no name: these go by their ids.
    names = {1: "Segment_1", 5: "label 5", 7: "liver"}
    write_labels(truth, labels, read_volume(files[0]), names)
    report = run(scan=(files[0], truth))
    assert report["labels"] == {
        "1": "right ventricle",
        "2": "myocardium",
        "3": "left ventricle",
        "5": "structure 5",
        "7": "liver",
    }


def test_organs_that_the_label_file_names_get_the_ids_of_the_model(
    l2gnet, run, files, labels, model_file, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    run(out=tmp_path / "one")
    # Garbage in other slices does not matter, as without names.
    other = np.full_like(labels, 200)
    other[[1, 3]] = np.array([0, 3, 2, 1])[labels[[1, 3]]]
    names = {1: "Left  Ventricle", 2: "myocardium", 3: "right ventricle", 4: "nowhere"}
    truth, mask = tmp_path / "other.nii.gz", tmp_path / "mask.nii.gz"
    write_labels(truth, other, read_volume(files[0]), names)
    code, _, err = l2gnet(
        "finetune", files[0], truth, "--slices", "1,3", "--model", model_file, "--steps", 2,
        "-o", tmp_path / "other", "--mask", mask,
    )  # fmt: skip
    assert code == 0
    assert err.startswith(
        "warning: organs of other.nii.gz are matched by name: Left  Ventricle is 1 there and 3 "
        "here, right ventricle is 3 there and 1 here.\n"
    )
    assert written(tmp_path / "one") == written(tmp_path / "other")
    found = read_volume(mask).data
    np.testing.assert_array_equal(found[[1, 3]], labels[[1, 3]])


def test_a_label_file_says_something_of_what_it_names_or_holds(files, labels, make_model, tmp_path):
    card, truth = make_model().card, tmp_path / "one.nii.gz"
    names = {1: "left ventricle", 2: "Myocardium", 7: "nowhere", 8: "Segment_8"}
    write_labels(truth, (labels == 3).astype(np.uint8), read_volume(files[0]), names)
    named, _ = read_correction(CorrectedFiles(files[0], truth, (1, 3)), card)
    assert named.checked == {1: {2, 3}, 3: {2, 3}}
    write_labels(truth, np.where(labels == 3, labels, 0), read_volume(files[0]))
    nameless, _ = read_correction(CorrectedFiles(files[0], truth, (1, 3)), card)
    assert nameless.checked == {}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            {1: "liver", 2: "myocardium", 3: "left ventricle"},
            "liver is 1 in named.nii.gz, as the right ventricle of tiny; give it a free id, such "
            "as 4",
        ),
        ({1: "left ventricle", 2: "myocardium"}, "there is none for 3; name it, too"),
        ({2: "myocardium", 3: "liver"}, "liver is 3 in named.nii.gz"),
    ],
)
def test_an_id_of_another_name_is_not_taught_as_the_models(
    refused, files, labels, model_file, tmp_path, names, says
):
    truth = tmp_path / "named.nii.gz"
    write_labels(truth, labels, read_volume(files[0]), names)
    assert says in refused(
        "finetune", files[0], truth, "--slices", "1,3", "--model", model_file,
        "-o", tmp_path / "new",
    )  # fmt: skip


def test_a_mask_of_total_segmentator_teaches_the_organs_that_the_model_has(
    l2gnet, refused, run, files, labels, make_model, model_file, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    truth = tmp_path / "total.nii.gz"
    write_total_segmentator(truth, labels, nib.load(files[0]).affine)
    given = "finetune", files[0], truth, "--slices", "1,3", "--model", model_file
    told = refused(*given, "-o", tmp_path / "new")
    assert "spleen is 1 in total.nii.gz, as the right ventricle of tiny" in told
    assert "or teach only the model's organs with --shared-organs." in told
    assert "got both" in refused(
        *given, "-o", tmp_path / "new", "--names", "4=a", "--shared-organs"
    )
    code, out, err = l2gnet(
        *given, "-o", tmp_path / "new", "--steps", 2, "--json", "--shared-organs"
    )
    assert code == 0, err
    assert json.loads(out)["new"] == []
    assert (
        "warning: tiny does not have spleen, liver, stomach of total.nii.gz: in the corrected "
        "slices they count as background.\n"
    ) in err
    run(out=tmp_path / "plain")
    assert written(tmp_path / "new") == written(tmp_path / "plain")
    # Voxels that nobody marked stay unknown beside those of other organs.
    card = make_model().card
    chosen = CorrectedFiles(files[0], truth, (1, 3))
    correction, new = read_correction(chosen, card, unmarked=0, shared=True)
    assert new == {}
    others = np.isin(read_volume(truth).data[1], (1, 5, 6))
    unknown = correction.picture(1) == correction.unmarked
    np.testing.assert_array_equal(unknown, (labels[1] == 0) & ~others)
    np.testing.assert_array_equal(correction.picture(1)[~unknown], labels[1][~unknown])
    abdomen = make_model(LabelSet.from_names({1: "brain", 2: "uterus"})).card
    with pytest.raises(InputError, match=r"names none of them; call .* does: brain, uterus\."):
        read_correction(chosen, abdomen, shared=True)


def test_only_a_model_without_names_shares_ids(files, labels, make_model):
    other = labels.copy()
    other[:, 0] = 9
    nib.save(nib.Nifti1Image(other.transpose(), nib.load(files[1]).affine), files[1])
    chosen, told = CorrectedFiles(*files, (1,)), []
    numbered = make_model(LabelSet.from_names({2: "label 2", 3: "label 3"}))
    correction, new = read_correction(chosen, numbered.card, shared=True, tell=told.append)
    assert new == {}
    np.testing.assert_array_equal(correction.picture(1), np.where(labels[1] > 1, labels[1], 0))
    assert told[0].startswith("tiny does not have id 1, id 9 of labels.nii.gz: ")
    with pytest.raises(InputError, match=r"labels\.nii\.gz names none of them"):
        read_correction(chosen, make_model().card, shared=True)


def test_a_model_that_only_numbers_its_structures_goes_by_ids(files, labels, make_model, tmp_path):
    truth = tmp_path / "named.nii.gz"
    write_labels(truth, labels, read_volume(files[0]), {1: "liver", 2: "spleen", 3: "kidney"})
    numbered = make_model(LabelSet.from_names({id: f"structure {id}" for id in (1, 2, 3)}))
    told: list[str] = []
    correction, new = read_correction(
        CorrectedFiles(files[0], truth, (1, 3)), numbered.card, tell=told.append
    )
    np.testing.assert_array_equal(correction.picture(1), labels[1])
    assert (new, told) == ({}, [])


def test_a_new_id_with_two_names_is_asked_about(
    run, refused, files, labels, model_file, tmp_path, monkeypatch
):
    keep_all(monkeypatch)
    truths = [tmp_path / "liver.nii.gz", tmp_path / "spleen.nii.gz"]
    for truth in truths:
        write_labels(
            truth, np.where(labels == 2, 7, labels), read_volume(files[0]), {7: truth.name[:-7]}
        )
    another = shutil.copy(files[0], tmp_path / "another.nii.gz")
    also = ("--also", another, truths[1], "0,2")
    assert "7 is both liver and spleen" in refused(
        "finetune", files[0], truths[0], "--slices", "1,3", "--model", model_file,
        "-o", tmp_path / "new", *also,
    )  # fmt: skip
    report = run(*also, "--names", "7=kidney", scan=(files[0], truths[0]))
    assert report["labels"]["7"] == "kidney"


def test_a_scan_is_no_labels(run, refused, files, save_scan, model_file, tmp_path, monkeypatch):
    many = np.random.default_rng(0).integers(0, 16, SHAPE).astype(np.uint8)
    scan, other = save_scan(tmp_path / "8bit.nii.gz", many), files[0].with_name("other.nii.gz")
    save_scan(other, many[::-1].copy())
    arguments = "--slices", "1,3", "--model", model_file, "-o", tmp_path / "new"
    assert "the scan's own values" in refused("finetune", scan, scan, *arguments)
    assert "12 ids that the model does not have" in refused("finetune", scan, other, *arguments)
    keep_all(monkeypatch)
    names = ",".join(f"{id}=organ {id}" for id in range(4, 16))
    assert len(run("--names", names, scan=(scan, other))["labels"]) == 15


def test_slices_count_along_the_axis_of_the_stored_array(run, labels, save_scan, files, tmp_path):
    # NIfTI stores (x,y,z): its axis 0 is our last one.
    only = np.full_like(labels, 200)
    only[:, :, [19, 22]] = labels[:, :, [19, 22]]
    truth = save_scan(tmp_path / "x.nii.gz", only)
    report = run("--axis", 0, slices="19,22", scan=(files[0], truth))
    assert report["new"] == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_frame_of_a_series_is_learnt_from(run, files, labels, save_scan, tmp_path, whole):
    image = read_volume(files[0]).data
    cine = save_scan(tmp_path / "cine.nii.gz", np.stack([image[:, ::-1], image, image + 3]))
    truth = files[1]
    if whole:
        other = np.where(labels == 3, 2, 0).astype(np.uint8)
        truth = save_scan(tmp_path / "truth.nii.gz", np.stack([other, labels, other]))
    mask = tmp_path / "mask.nii.gz"
    told = run("--frame", 1, "--mask", mask, scan=(cine, truth), out=tmp_path / "of frame")
    # The mask is of the whole series, as that of `segment`; corrections are of their frame.
    found = read_volume(mask).data
    assert found.shape == (3, *SHAPE)
    same = [np.array_equal(found[frame, [1, 3]], labels[[1, 3]]) for frame in range(3)]
    assert same == [False, True, False]
    assert len(told["mask"]["labels"][0]["voxels"]) == 3
    run(out=tmp_path / "alone")
    assert written(tmp_path / "of frame")[0] == written(tmp_path / "alone")[0]


def test_paths_may_be_text_and_frames_count_from_the_first(files, save_scan, model_file, tmp_path):
    card = load_model(model_file).card
    series = save_scan(tmp_path / "cine.nii.gz", np.stack([read_volume(files[0]).data] * 2))
    as_text = CorrectedFiles(str(series), str(files[1]), slices=[1, 3])
    correction, _ = read_correction(as_text, card, frame=1)
    assert (correction.slices, correction.image) == ((1, 3), series.resolve())
    with pytest.raises(InputError, match="between 0 and 1 of cine"):
        read_correction(as_text, card, frame=-1)


def test_several_scans_make_a_model_for_scans_to_come(run, files, tmp_path, monkeypatch):
    keep_all(monkeypatch)
    image, truth = files
    another = shutil.copy(image, tmp_path / "another.nii.gz")
    report = run("--also", another, truth, "0,2", "--also", *files, "2")
    # Two masks of one scan belong to one patient.
    assert (report["scans"], report["evidence"]["slices"]) == (2, 5)
    (entry,) = load_model(tmp_path / "new").card.history
    assert entry["settings"]["kind"] == "project"


def test_bad_input_is_one_sentence(refused, files, model_file, save_scan, labels, tmp_path):
    image, truth = files

    def said(*more, slices="1,3", scan=files, out=tmp_path / "new") -> str:
        return refused(
            "finetune", *scan, "--slices", slices, "--model", model_file, "-o", out, *more
        )

    assert "between 0 and 4" in said(slices="1,5")
    assert "as in 3,7,11, but got 'a,2'" in said(slices="a,2")
    assert "numbers with commas" in said(slices="")
    assert "--steps or --seconds" in said("--steps", 2, "--seconds", 3)
    assert "as in 4=spleen" in said("--names", "4")
    assert "as in 4=spleen" in said("--names", "4=a,4=b")
    assert "got one for 6" in said("--names", "6=liver")
    assert "is its left ventricle" in said("--unmarked", 3)
    assert "name, file or folder" in said("--model", "nowhere")
    assert "holds one already" in said(out=model_file)
    assert "holds one already" in said(out=model_file.parent)
    (tmp_path / "older").mkdir()
    shutil.copy(model_file, tmp_path / "older" / MODEL_FILE)
    assert "holds one already" in said(out=tmp_path / "older")
    assert "neither" in said(out=image)
    assert "not as mine.pt; if that is to be a folder" in said(out=tmp_path / "mine.pt")
    assert "can be written to" in said(out=image / "new")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.json").write_text("{}")
    assert "another place than a training run's" in said(out=tmp_path / "run")
    assert "no file" in said(scan=(image, tmp_path / "no.nii.gz"))
    assert "--slices" in refused("finetune", *files, "-o", tmp_path / "new")
    small = save_scan(tmp_path / "small.nii.gz", labels[:, 1:])
    assert "of the scan's shape (5, 40, 44)" in said(scan=(image, small))
    apart = save_scan(tmp_path / "apart.nii.gz", labels, shift=30.0)
    assert "mm apart" in said(scan=(image, apart))
    empty = save_scan(tmp_path / "empty.nii.gz", np.zeros_like(labels))
    assert "background alone" in said(scan=(image, empty))
    fractions = save_scan(tmp_path / "fractions.nii.gz", labels * 0.5)
    assert "holds fractions" in said(scan=(image, fractions))
    series = nib.Nifti1Image(np.zeros((44, 40, 5, 3), np.uint8), np.eye(4))
    nib.save(series, tmp_path / "series.nii.gz")
    cine = tmp_path / "series.nii.gz"
    assert "is a series of 3; name the corrected frame with --frame" in said(scan=(cine, truth))
    assert "frame between 0 and 2 of series.nii.gz, but got 3" in said(
        "--frame", 3, scan=(cine, truth)
    )
    assert "frame between 0 and 0 of scan.nii.gz, but got 1" in said("--frame", 1)
    assert "of scan.nii.gz's one frame, but series.nii.gz has 3" in said(scan=(image, cine))
    assert not (tmp_path / "new").exists()


def test_a_model_with_left_and_right_needs_the_orientation(
    refused, l2gnet, make_model, labels, tmp_path
):
    from tifffile import imwrite

    model = make_model(oriented=True, slicing="axial")
    file = save_model(tmp_path / "oriented.safetensors", model.network, model.card)
    imwrite(tmp_path / "scan.tif", (60 * labels).astype(np.uint8))
    imwrite(tmp_path / "labels.tif", labels)
    arguments = (
        "finetune", tmp_path / "scan.tif", tmp_path / "labels.tif", "--slices", "2",
        "--model", file, "-o", tmp_path / "new", "--steps", 1,
    )  # fmt: skip
    assert "--orientation" in refused(*arguments)
    code, *_ = l2gnet(*arguments, "--orientation", "SPL")
    assert code == 0
