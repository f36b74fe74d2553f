"""``vistok import``: a tokenizer from a public checkpoint."""

from __future__ import annotations

import argparse

from vistok.cli import OK

# told here too, so that --help needs no torch
KINDS = {
    "chameleon": "transformers' ChameleonVQVAE or Meta's vqgan.ckpt",
    "janus": "transformers' JanusVQVAE, which is LlamaGen's",
    "llamagen": "LlamaGen's vq_ds16_c2i.pt and its like",
    "emu3": "transformers' Emu3VQVAE, for still images",
    "ldm-kl": "latent diffusion's own kl-f8 and kl-f16, MAR's kl16.ckpt",
    "diffusers-kl": "AutoencoderKL: Stable Diffusion, SDXL, SD3, FLUX",
    "diffusers-vq": "VQModel: latent diffusion's VQ, Kandinsky's MoVQ",
    "diffusers-dc-ae": "AutoencoderDC: DC-AE, Sana",
    "diffusers-rae": "AutoencoderRAE with DINOv2",
}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    width = max(map(len, KINDS))
    listed = "\n".join(f"  {kind:<{width}}  {text}" for kind, text in KINDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"kinds:\n{listed}\n\nEvery key of the checkpoint must find its place and every parameter its key. A folder's "
        "config.json\nalso tells the shift and scale of latents; with a file alone, tell them."
    )
    parser.add_argument("--from", dest="kind", required=True, choices=KINDS, metavar="KIND", help="see below")
    parser.add_argument(
        "source", metavar="SOURCE", help="a .safetensors file, a state dict, or a folder with config.json"
    )
    parser.add_argument("out", metavar="OUT", help="folder to make; it appears when it is whole")
    parser.add_argument("--name", help="what the tokenizer is called (default: the kind)")
    parser.add_argument("--scale", type=float, metavar="X", help="of latents: 0.18215 for Stable Diffusion 1")
    parser.add_argument(
        "--shift", type=float, metavar="X", help="subtracted from latents before they are scaled"
    )
    parser.add_argument(
        "--licence", default="unknown", help="of the checkpoint, which does not tell it itself"
    )


def run(command: str, arguments: argparse.Namespace) -> int:
    """Imports, saves, and prints one line."""
    from vistok.integrations.importers import import_tokenizer

    tokenizer = import_tokenizer(
        arguments.kind,
        arguments.source,
        name=arguments.name,
        licence=arguments.licence,
        scale=arguments.scale,
        shift=arguments.shift,
    )
    tokenizer.save(arguments.out)
    count = sum(parameter.numel() for parameter in tokenizer.parameters())
    print(f"{tokenizer.name}: {count:,} parameters from {arguments.source} in {arguments.out}")
    return OK
