"""The attention kernels as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

# of each kernel that with most in its registers
_WIDEST = ("cosine values", "cosine entropy", "euclid entropies", "euclid")
_METRICS = {
    "dot": {"HAS_GAIN": 0, "HAS_BIAS": 0},
    "euclid": {"HAS_GAIN": 0, "HAS_BIAS": 1},
    "cosine": {"HAS_GAIN": 1, "HAS_BIAS": 0},
}
_SIZES = {"num_latents": "i32", "num_codes": "i32"}


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """The variants that values (SoftVQ, IBQ) and entropies take under each metric."""
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
        scored = ["queries", "codebook", "gain", "bias", *pointers.split()]
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
            cut.options(has_limit=True),
            (*scored, "num_latents", "num_codes", step),
            (),
            num_bytes,
            num_products * product,
            quick=dim in (8, 256) and variant in _WIDEST,
        )

    out = {"BLOCK_OUT": tile(dim, "latents").out}
    values = {"HAS_VALUE": 1, "HAS_LOGARITHM": 0, "HAS_COLUMN": 0}
    entropies = {"HAS_VALUE": 0, "HAS_LOGARITHM": 1, "HAS_COLUMN": 1}
    scores = 4 * (latents + codes + NUM_LATENTS + codebook_size)
    forward = "highest total indices values"
    above = "logsumexp row value logarithm column gradient"
    parts = f"{above} gain_gradient bias_gradient"
    for metric, flags in _METRICS.items():
        for name, means in (("values", 1), ("logsumexp", 0)):
            yield case(
                "attention_kernel", f"{metric} {name}", forward, "codes_per_split",
                {**flags, "HAS_VALUES": means, **out}, scores + 4 * latents * means, 1 + means,
            )  # fmt: skip
        yield case(
            "row_means_kernel", f"{metric} entropy", "logsumexp weights means", "codes_per_split",
            {**flags, "ENTROPY": 1}, scores, 1,
        )  # fmt: skip
        yield case(
            "code_sums_of_probabilities_kernel", metric, "logsumexp sums", "rows_per_split", flags, scores, 1
        )
        for name, kind, num_products in (("values", values, 3), ("entropies", entropies, 2)):
            soft = int(kind is values)
            yield case(
                "queries_backward_kernel", f"{metric} {name}", above, "codes_per_split",
                {**flags, **kind, **out}, scores + 4 * latents * (1 + soft), num_products,
            )  # fmt: skip
            yield case(
                "codebook_backward_kernel", f"{metric} {name}", parts, "rows_per_split",
                {**flags, **kind, "SOFT": soft, **out}, scores + 4 * (latents * soft + codes), num_products + soft,
            )  # fmt: skip
