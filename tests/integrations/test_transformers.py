"""Models of transformers, with random weights, learn from packed shards and write images that a tokenizer decodes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import vistok.shards
from tests.layouts.tokenizers import SIZE, small_tokenizer
from vistok.data import Photos
from vistok.errors import LayoutError
from vistok.integrations.transformers import constrained, grow, unlock_images
from vistok.layouts import Layout, Template, codebook_vectors
from vistok.quantizers import VQ, Residual
from vistok.spec import ImagePolicy

transformers = pytest.importorskip("transformers")

TEXT = {name: n for n, name in enumerate(["<pad>", "<s>", "</s>", "<image>", *"0123456789*", "word"])}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GRID = (4, 4)
BARE = Template.from_yaml(
    "{system: Bare, text_vocabulary: 0, streams: {image: }, sequence: [{tokens: image}]}"
)
ROWS = Template.from_yaml(
    "{system: Rows, specials: {boi: <boi>}, streams: {image: {groups: interleaved, own_ranges: true}}, sequence: [boi, {tokens: image}]}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def encoded_photos(tokenizer, folder):
    photos = Photos("all", policy=ImagePolicy(size=(SIZE, SIZE)), multiple_of=8)
    vistok.shards.encode(tokenizer, photos, folder, progress=False)
    items = list(vistok.shards.open(folder))
    return vistok.shards.to_encoded(vistok.shards.collate(items), tokenizer.spec)


@pytest.fixture(scope="module")
def encoded(tokenizer, tmp_path_factory):
    return encoded_photos(tokenizer, tmp_path_factory.mktemp("photos") / "shards")


def names_of(layout: Layout) -> dict[str, int]:
    """The text vocabulary after growth, as a configuration's vocabulary map has it."""
    return {**TEXT, **{token: layout.text_size + n for n, token in enumerate(layout.added_tokens)}}


def fit(model, loss_of, steps: int = 25) -> list[float]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    model.train()
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    assert all(math.isfinite(loss) for loss in losses)
    return losses


def written(model, layout: Layout, prompt: torch.Tensor, **options) -> torch.Tensor:
    """Images' sequences, drawn after a word and what begins an image."""
    generated = model.generate(
        torch.cat([torch.full((len(prompt), 1), TEXT["word"]), prompt], 1),
        logits_processor=constrained(layout, GRID, end=2),
        max_new_tokens=layout.length(GRID) - prompt.shape[1] + 2,
        do_sample=True,
        **options,
    )
    length = layout.length(GRID)
    assert (generated[:, 1 + length] == 2).all()
    return generated[:, 1 : 1 + length]


def check_pictures(tokenizer, indices: torch.Tensor, grid: tuple[int, ...]) -> None:
    pictures = tokenizer.decode(indices=indices, grid=grid)
    assert pictures.shape == (len(indices), 3, SIZE, SIZE) and pictures.isfinite().all()


def test_chameleon_learns_and_writes_images(tokenizer, encoded):
    layout = Layout("chameleon", tokenizer.spec, TEXT)
    config = transformers.ChameleonConfig(
        vocab_size=layout.vocabulary_size,
        vocabulary_map=names_of(layout),
        vq_config={"num_embeddings": 32, "embed_dim": 4, "latent_channels": 32, "base_channels": 32,
                   "channel_multiplier": [1, 1], "num_res_blocks": 1, "resolution": 16},
        **SMALL, **IDS,
    )  # fmt: skip
    model = transformers.ChameleonForConditionalGeneration(config)
    packed = layout.pack(encoded)
    with torch.no_grad():
        locked = model(input_ids=packed.ids, labels=packed.labels).loss
    assert float(locked) > 1e30, "transformers now lets Chameleon learn images: unlock_images can go"
    unlock_images(model)
    losses = fit(model, lambda: model(input_ids=packed.ids, labels=packed.labels).loss)
    assert losses[-1] < 0.7 * losses[0]
    found = layout.unpack(written(model, layout, layout.prompt(GRID).expand(2, -1)))
    check_pictures(tokenizer, found.values, found.grid)
    # its own mapping from codes to ids is the layout's
    mapping = model.model.vocabulary_mapping
    assert torch.equal(mapping.convert_img2bpe(torch.arange(32)).long(), layout.codes().all_ids()[0])


def test_emu3_learns_and_writes_images_of_the_size_that_the_header_says(tokenizer, encoded):
    layout = Layout("emu3", tokenizer.spec, TEXT)
    text = {**SMALL, **IDS, "vocab_size": layout.vocabulary_size}
    vision = {"codebook_size": 32, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1],
              "num_res_blocks": 1, "attn_resolutions": [], "hidden_size": 32}  # fmt: skip
    config = transformers.Emu3Config(text_config=text, vq_config=vision, vocabulary_map=names_of(layout))
    model = transformers.Emu3ForConditionalGeneration(config)
    packed = layout.pack(encoded)
    losses = fit(model, lambda: model(input_ids=packed.ids, labels=packed.labels).loss)
    assert losses[-1] < 0.7 * losses[0]
    ids = written(model, layout, layout.prompt(GRID).expand(2, -1))
    found = layout.unpack(ids)
    assert found.grid == GRID
    check_pictures(tokenizer, found.values, found.grid)
    # what its own decoder cuts out of such a sequence are the same codes
    body = ids[:, layout.prompt(GRID).shape[1] :]
    rows = model.model.vocabulary_mapping.convert_bpe2img(body[:, :-2].view(-1, GRID[0], GRID[1] + 1))
    assert torch.equal(rows.flatten(1).long(), found.values.flatten(1))


def test_janus_learns_by_its_generation_head_and_writes_images(tokenizer, encoded):
    names = {**TEXT, "<begin_of_image>": 16, "<image_placeholder>": 17, "<end_of_image>": 18}
    layout = Layout("janus", tokenizer.spec, names)
    config = transformers.JanusConfig(
        text_config=transformers.LlamaConfig(vocab_size=layout.vocabulary_size, **SMALL, **IDS),
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIZE,
                       "patch_size": 8, "projection_dim": 32, "num_image_tokens": 16},
        vq_config={"num_embeddings": 32, "embed_dim": 4, "latent_channels": 32, "base_channels": 32,
                   "channel_multiplier": [1, 1], "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32},
        image_token_id=17,
    )  # fmt: skip
    model = transformers.JanusForConditionalGeneration(config)
    packed = layout.pack(encoded)
    at, codes = packed.placeholders["image"], packed.values["image"].squeeze(-1)

    def loss() -> torch.Tensor:
        inputs = model.get_input_embeddings()(packed.ids).masked_scatter(
            at[None, :, None], model.prepare_embeddings_for_image_generation(codes)
        )
        hidden = model.model.language_model(inputs_embeds=inputs).last_hidden_state
        logits = model.model.generation_head(hidden[:, :-1][:, at[1:]])
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())

    losses = fit(model, loss, steps=60)
    assert losses[-1] < 0.8 * losses[0]
    model.generation_config.generation_kwargs = {"boi_token_id": layout.specials["boi"]}
    prompt = torch.cat([torch.full((2, 1), TEXT["word"]), layout.prompt(GRID).expand(2, -1)], 1)
    drawn = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), generation_mode="image", do_sample=True, guidance_scale=2.0,
        **IDS,
    )  # fmt: skip
    found = layout.unpack(packed.ids[:2], {"image": drawn.unsqueeze(-1)})
    check_pictures(tokenizer, found.values, found.grid)


def llama(vocab_size: int, **options):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=vocab_size, **SMALL, **IDS, **options)
    )


@pytest.mark.parametrize("tied", [False, True])
def test_llama_grows_by_the_codebook_and_learns_images(tokenizer, encoded, tied):
    layout = Layout("liquid", tokenizer.spec, TEXT)
    model = llama(len(TEXT), tie_word_embeddings=tied)
    text = model.get_input_embeddings().weight.detach().clone()
    grow(model, layout, codebook_vectors(tokenizer))
    assert model.config.vocab_size == layout.vocabulary_size
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[: len(TEXT)], text) and len(rows) == layout.vocabulary_size
    assert (model.get_output_embeddings().weight is rows) == tied
    packed = layout.pack(encoded)
    losses = fit(model, lambda: model(input_ids=packed.ids, labels=packed.labels).loss)
    assert losses[-1] < 0.7 * losses[0]
    found = layout.unpack(written(model, layout, layout.prompt(GRID).expand(2, -1)))
    check_pictures(tokenizer, found.values, found.grid)


def test_llama_as_llamagen_is_told_the_class(tokenizer, encoded):
    layout = Layout("llamagen", tokenizer.spec)
    model = llama(layout.vocabulary_size)
    labels = torch.arange(encoded.batch_size)
    packed = layout.pack(encoded, labels=labels)
    losses = fit(model, lambda: model(input_ids=packed.ids, labels=packed.labels).loss, steps=60)
    assert losses[-1] < 0.5 * losses[0]
    generated = model.generate(
        layout.prompt(GRID, labels), logits_processor=constrained(layout, GRID, start=0), max_new_tokens=16, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    found = layout.unpack(generated)
    assert torch.equal(found.labels, labels)
    check_pictures(tokenizer, found.values, found.grid)
    # each class was one photo: the model has learned which
    assert float((found.values == encoded.indices).float().mean()) > 0.5


def test_llama_reads_residual_stages_in_a_row(tmp_path):
    tokenizer = small_tokenizer(Residual(VQ(codebook_size=16, dim=4), 2))
    encoded = encoded_photos(tokenizer, tmp_path / "shards")
    layout = Layout(ROWS, tokenizer.spec, TEXT)
    model = llama(len(TEXT))
    grow(model, layout, codebook_vectors(tokenizer))
    packed = layout.pack(encoded)
    losses = fit(model, lambda: model(input_ids=packed.ids, labels=packed.labels).loss)
    assert losses[-1] < 0.7 * losses[0]
    found = layout.unpack(written(model, layout, layout.prompt(GRID).expand(2, -1)))
    check_pictures(tokenizer, found.values, found.grid)


def test_prompts_of_other_lengths_are_told_apart_by_what_begins_an_image(tokenizer):
    layout = Layout("liquid", tokenizer.spec, TEXT)
    model = llama(layout.vocabulary_size)
    boi, word, pad = layout.specials["boi"], TEXT["word"], TEXT["<pad>"]
    first = int(layout.codes().starts[0])
    prompt = torch.tensor([[pad, pad, word, boi], [word, boi, first, first + 1]])
    generated = model.generate(
        prompt, attention_mask=(prompt != pad).long(), logits_processor=constrained(layout, GRID, end=2),
        max_new_tokens=18, do_sample=True,
    )  # fmt: skip
    # the second is complete two tokens before the first, and padded
    assert (
        layout.complete(generated[:1, 3:21], GRID).all() and layout.complete(generated[1:, 1:19], GRID).all()
    )
    assert generated[1, 19] == 2 and generated[0, 21] == 2


def test_a_prompt_without_an_image_and_a_model_without_the_ids_are_refused(tokenizer):
    layout = Layout("liquid", tokenizer.spec, TEXT)
    ids = torch.tensor([[TEXT["word"]]])
    with pytest.raises(LayoutError, match="no token that begins an image of Liquid"):
        constrained(layout, GRID)(ids, torch.zeros(1, layout.vocabulary_size))
    with pytest.raises(LayoutError, match="the model 9: grow it first"):
        constrained(layout, GRID, start=1)(ids, torch.zeros(1, 9))
    with pytest.raises(LayoutError, match="say start="):
        plain = Layout("infinity", tokenizer.spec) if tokenizer.spec.main.bits else _bare(tokenizer)
        constrained(plain, GRID)(ids, torch.zeros(1, 64))


def _bare(tokenizer) -> Layout:
    from vistok.layouts import Template

    template = Template.from_yaml(
        "{system: Bare, text_vocabulary: 0, streams: {image: }, sequence: [{tokens: image}]}"
    )
    return Layout(template, tokenizer.spec)
