"""The attention kernels as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_WIDEST = ("values, gain, bias", "entropy", "", "all")
_SIZES = {"num_latents": "i32", "num_codes": "i32"}


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """The variants that IBQ, SoftVQ and the entropies take, and the one with most in registers."""
    from vistok_kernels.attention.kernel import tile

    latents, codes = NUM_LATENTS * dim, codebook_size * dim
    product = 2 * NUM_LATENTS * codes

    def case(
        kernel: str,
        variant: str,
        pointers: str,
        step: str,
        flags: dict[str, int],
        num_bytes: int,
        num_products: int,
    ) -> Case:
        scored = ["queries", "codebook", "gain", "bias"] + pointers.split()
        cut = tile(
            dim,
            "codes" if step == "rows_per_split" else "means" if kernel == "row_means_kernel" else "latents",
        )
        blocks = {"BLOCK_ROWS": cut.rows, "BLOCK_CODES": cut.codes, "BLOCK_CHANNELS": cut.channels}
        signature = {name: "*i64" if name == "indices" else "*fp32" for name in scored}
        return Case(
            "vistok_kernels.attention.kernel",
            kernel,
            dim,
            variant,
            signature | _SIZES | {step: "i32"},
            {"DIM": dim, **flags, **blocks},
            {"num_warps": cut.num_warps, "num_stages": cut.num_stages},
            (*scored, "num_latents", "num_codes", step),
            (),
            num_bytes,
            num_products * product,
            # the widest of each kernel: what fits with everything fits with less
            quick=dim in (8, 256) and variant in _WIDEST,
        )

    plain = {"HAS_GAIN": 0, "HAS_BIAS": 0}
    full = {"HAS_GAIN": 1, "HAS_BIAS": 1}
    out = {"BLOCK_OUT": tile(dim, "latents").out}
    values = {"HAS_VALUE": 1, "HAS_LOGARITHM": 0, "HAS_COLUMN": 0}
    entropies = {"HAS_VALUE": 0, "HAS_LOGARITHM": 1, "HAS_COLUMN": 1}
    every = {"HAS_VALUE": 1, "HAS_LOGARITHM": 1, "HAS_COLUMN": 1}
    small = 4 * (NUM_LATENTS + codebook_size)
    scores = 4 * (latents + codes) + small
    forward = "highest total indices values"
    above = "logsumexp row value logarithm column gradient"
    for flags, name in ((plain, "dot"), (full, "gain, bias")):
        yield case(
            "attention_kernel", f"values, {name}", forward, "codes_per_split",
            {**flags, "HAS_VALUES": 1, **out}, scores + 4 * latents, 2,
        )  # fmt: skip
        yield case(
            "queries_backward_kernel", f"values, {name}", above, "codes_per_split",
            {**flags, **values, **out}, scores + 8 * latents, 3,
        )  # fmt: skip
        yield case(
            "codebook_backward_kernel", f"values, {name}", f"{above} gain_gradient bias_gradient", "rows_per_split",
            {**flags, **values, "SOFT": 1, **out}, scores + 4 * (latents + codes), 4,
        )  # fmt: skip
    yield case(
        "attention_kernel", "logsumexp", forward, "codes_per_split", {**plain, "HAS_VALUES": 0, **out}, scores, 1
    )  # fmt: skip
    yield case(
        "row_means_kernel", "entropy", "logsumexp weights means", "codes_per_split",
        {**full, "ENTROPY": 1}, scores, 1,
    )  # fmt: skip
    yield case("code_sums_of_probabilities_kernel", "", "logsumexp sums", "rows_per_split", full, scores, 1)
    yield case(
        "queries_backward_kernel", "entropies", above, "codes_per_split",
        {**plain, **entropies, **out}, scores + 4 * latents, 2,
    )  # fmt: skip
    yield case(
        "codebook_backward_kernel", "all", f"{above} gain_gradient bias_gradient", "rows_per_split",
        {**full, **every, "SOFT": 1, **out}, scores + 4 * (latents + codes), 4,
    )  # fmt: skip
