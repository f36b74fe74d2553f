import torch

from vistok.downstream.captions import END, PAD, UNKNOWN, Words, described


def test_words_come_back_and_unknown_ones_share_a_number():
    words = Words(["A red fox", "a blue whale, swimming"])
    row = words.encode(["A blue fox"])[0]
    assert words.decode(row) == "a blue fox"
    strange = words.encode(["zebra"])[0].tolist()
    assert strange == [UNKNOWN, END, PAD, PAD, PAD]


def test_pictures_are_described_by_what_they_look_like():
    dark_blue = torch.full((3, 8, 8), -0.9)
    dark_blue[2] = 0.2
    white = torch.ones(3, 8, 8)
    noise = torch.randint(2, (1, 8, 8)).float().expand(3, 8, 8) * 2 - 1
    told = described(torch.stack([dark_blue, white, noise]))
    assert told[0] == "dim blue smooth" or told[0] == "dark blue smooth"
    assert told[1] == "bright grey smooth" and told[2].endswith("grey busy")
