import numpy as np
import torch

from vistok.quantizers import Leech
from vistok.quantizers.leech import golay_code, minimal_vectors


def test_the_golay_code_has_its_weights_and_is_closed():
    words = golay_code()
    assert np.bincount(words.sum(axis=1), minlength=25).nonzero()[0].tolist() == [0, 8, 12, 16, 24]
    assert (words.sum(axis=1) == 8).sum() == 759 and (words.sum(axis=1) == 12).sum() == 2576
    number = words.astype(np.int64) @ (1 << np.arange(24))
    assert set((number[:50, None] ^ number[None, 50:100]).ravel()) <= set(number)


def test_there_are_196560_different_shortest_vectors_in_lexicographic_order():
    vectors = minimal_vectors().astype(np.int64)
    assert vectors.shape == (196_560, 24) and (np.square(vectors).sum(axis=1) == 32).all()
    differences = np.diff(vectors, axis=0)
    first = differences[np.arange(len(differences)), (differences != 0).argmax(axis=1)]
    assert (first > 0).all()


def test_every_vector_has_the_neighbours_of_the_leech_lattice():
    vectors = minimal_vectors().astype(np.float32)
    for vector in vectors[:: len(vectors) // 7]:
        angles, counts = np.unique(vectors @ vector / 8, return_counts=True)
        assert dict(zip(angles.tolist(), counts.tolist(), strict=True)) == {
            -4: 1, -2: 4600, -1: 47104, 0: 93150, 1: 47104, 2: 4600, 4: 1,
        }  # fmt: skip


def test_codes_have_length_1_and_are_their_own_nearest():
    quantizer = Leech().eval()
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(196_560))
    indices = torch.arange(0, 196_560, 997)
    output = quantizer(3 * quantizer.decode(indices)[None])
    assert torch.equal(output.indices[0], indices)


def test_the_nearest_by_angle_is_found():
    quantizer = Leech().eval()
    latent = torch.randn(1, 20, 24)
    assert torch.equal(quantizer(latent).indices, (latent @ quantizer.codebook.T).argmax(dim=-1))


def test_the_table_is_made_not_saved():
    assert Leech().state_dict() == {}
    assert torch.equal(Leech().codebook, Leech().codebook)
