"""The demo: a tokenizer trained, used and judged on real photographs, in minutes and without a network."""

from vistok.demo.run import DemoInterrupted, run

__all__ = ["DemoInterrupted", "run"]
