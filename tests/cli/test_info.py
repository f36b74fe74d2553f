from tests.tokenizer.kinds import make
from vistok.cli.info import table


def test_a_stream_says_how_many_tokens_it_has():
    assert "6 tokens in a sequence, causal" in table(make("sequence_causal").spec)
    assert "up to 16 tokens in a sequence" in table(make("ragged").spec)
    assert "1 token per 4 x 4 pixels, or per 8, 12 pixels" in table(make("pooled").spec)
    dual = table(make("dual").spec)
    assert "stream semantic" in dual and "stream pixel" in dual
