import io
import random
import tarfile

import numpy as np
import pytest

from vistok.errors import ShardError
from vistok.shards.commit import replacing
from vistok.shards.container import Origin, Sample
from vistok.shards.tar_container import TarContainer, parse_array, parse_meta
from vistok.spec import StreamSpec, TokenizerSpec

ORIGIN = Origin(
    "0" * 64,
    TokenizerSpec("t", "both", (StreamSpec("pixel", codebook_size=1000), StreamSpec("semantic", dim=3))),
)


def some_samples(count=5):
    return [
        Sample(
            number,
            {"pixel": np.full((4, 1), number, np.uint16), "semantic": np.full((2, 3), number, np.float32)},
            {
                "key": f"k{number}",
                "size": [16, 16],
                "grid": {"pixel": [2, 2], "semantic": [2]},
                "label": number,
            },
        )
        for number in range(7, 7 + count)
    ]


def written(path, samples):
    with replacing(path) as file:
        TarContainer().write(file, samples, ORIGIN)
    return path


def rebuilt(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    return path


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


META = b'{"key": "a", "size": [8, 8], "grid": {"pixel": [1, 1]}}'


def test_samples_come_back_as_they_were(tmp_path):
    shard = TarContainer().open(written(tmp_path / "a.tar", some_samples()))
    assert shard.numbers.tolist() == [7, 8, 9, 10, 11]
    for position in (4, 0, 2):
        sample, expected = shard.read(position), some_samples()[position]
        assert sample.meta == expected.meta
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(sample.arrays[name], array)
            assert sample.arrays[name].dtype == array.dtype


def test_equal_samples_give_equal_bytes_without_time_or_owner(tmp_path):
    one, two = (written(tmp_path / name, some_samples()).read_bytes() for name in ("a.tar", "b.tar"))
    assert one == two
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644) for m in tar)


def test_a_shard_without_samples_is_a_shard(tmp_path):
    assert len(TarContainer().open(written(tmp_path / "a.tar", [])).numbers) == 0


def test_every_cut_is_noticed_without_any_record(tmp_path):
    data = written(tmp_path / "a.tar", some_samples(20)).read_bytes()
    for length in range(0, len(data), 512):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        with pytest.raises(ShardError):
            TarContainer().open(tmp_path / "cut.tar")


def test_damage_never_raises_anything_but_shard_errors(tmp_path):
    data = written(tmp_path / "a.tar", some_samples(3)).read_bytes()
    dice = random.Random(0)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(data) // 2)] = dice.randrange(256)
        (tmp_path / "b.tar").write_bytes(damaged)
        try:
            shard = TarContainer().open(tmp_path / "b.tar")
            for position in range(len(shard.numbers)):
                shard.read(position)
        except ShardError:
            pass


@pytest.mark.parametrize(
    "members",
    [
        [("000000000.pixel.npy", b"", tarfile.SYMTYPE), ("000000000.json", META, tarfile.REGTYPE)],
        [("000000000.pixel.npy", b"", tarfile.CHRTYPE), ("000000000.json", META, tarfile.REGTYPE)],
        [("../evil.pixel.npy", b"x", tarfile.REGTYPE)],
        [("000000000.json", META, tarfile.REGTYPE)],
        [("000000000.pixel.npy", b"x", tarfile.REGTYPE)],
        [("000000001.pixel.npy", b"x", tarfile.REGTYPE), ("000000002.json", META, tarfile.REGTYPE)],
        [(f"00000000{n}.{end}", b"x", tarfile.REGTYPE) for n in (2, 1) for end in ("pixel.npy", "json")],
        [(f"00000000{n}.{s}", b"x", tarfile.REGTYPE) for n, p in ((1, "a"), (2, "b")) for s in (f"{p}.npy", "json")],
    ],
    ids=["link", "device", "outside", "no array", "no json", "other number", "backwards", "other stream"],
)  # fmt: skip
def test_members_that_do_not_belong_are_refused(tmp_path, members):
    with pytest.raises(ShardError):
        TarContainer().open(rebuilt(tmp_path / "a.tar", members))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        npy(np.zeros((2, 2), np.uint16))[:-1],
        npy(np.zeros((2, 2), np.uint16)) + b"x",
        npy(np.zeros((2, 2), np.float64)),
        npy(np.zeros(4, np.uint16)),
        npy(np.asfortranarray(np.zeros((2, 3), np.uint16))),
        npy(np.array([[1]], dtype=object)),
        npy(np.zeros((2, 2), np.uint16)).replace(b"(2, 2)", b"(9999999999, 9999999999)"),
    ],
)
def test_arrays_that_are_not_what_they_claim_are_refused(data):
    with pytest.raises(ShardError):
        parse_array(data, "here")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff", b'{"key": 1, "grid": {}, "size": [1, 1]}', b'{"key": "a", "grid": {"p": "x"}, "size": [1, 1]}',
     b'{"key": "a", "grid": {}, "size": [1]}', b"[" * 100_000],
)  # fmt: skip
def test_json_members_without_key_grid_and_size_are_refused(data):
    with pytest.raises(ShardError):
        parse_meta(data, "here")
