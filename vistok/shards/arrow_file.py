"""One record batch as an Arrow IPC file whose own framing is checksummed, so that damage shows before it is parsed.

The file is what ``pyarrow.ipc.new_file`` writes, with eight bytes more before the footer, where readers of the format
look at nothing: ``VTK1`` and the crc32 of everything but them and the body of the batch.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, cast

from vistok.errors import ShardError
from vistok.shards.commit import BUFFER_BYTES, HashedFile

MAGIC, HEAD, MARK = b"ARROW1", b"ARROW1\0\0", b"VTK1"
CONTINUED = b"\xff\xff\xff\xff"
CHECK_BYTES, END_BYTES, TAIL_BYTES = 8, 8, 10


def write_batch(file: HashedFile, batch: Any) -> None:
    """Writes a ``pyarrow.RecordBatch``, uncompressed; equal batches give equal bytes."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None, use_threads=False)
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    data = memoryview(sink.getvalue()).cast("B")
    footer = len(data) - TAIL_BYTES - _footer_bytes(data)
    body_start = _body_start(data, footer)
    check = _checksum(data[:body_start], data[footer - END_BYTES : footer], data[footer:])
    for start in range(0, footer, BUFFER_BYTES):
        file.write(bytes(data[start : min(start + BUFFER_BYTES, footer)]))
    file.write(MARK + struct.pack("<I", check))
    file.write(bytes(data[footer:]))


def read_batch(path: Path) -> Any:
    """The ``pyarrow.RecordBatch`` of a file that ``write_batch`` wrote, memory-mapped; no file stays open.

    Raises:
        ShardError: the file is missing, foreign, or its framing, its offsets or its text are damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            buffer = file.read_buffer()  # keeps the mapping when the file is closed
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be opened: {_reason(error)}") from error
    room = check_framing(memoryview(buffer).cast("B"), path)
    try:
        reader = pa.ipc.open_file(buffer, options=pa.ipc.IpcReadOptions(use_threads=False))
        if reader.num_record_batches != 1:
            raise ShardError(f"{path} is damaged: it has {reader.num_record_batches} record batches, not one")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        if pa.ipc.get_record_batch_size(batch) != room:
            raise ShardError(f"{path} is damaged: its batch does not fill {room} bytes")
    except ShardError:
        raise
    except Exception as error:  # whatever Arrow makes of bytes that only look like a file of ours
        raise ShardError(f"{path} is damaged: {_reason(error)}") from error
    return batch


def check_framing(data: memoryview, path: Path) -> int:
    """Makes sure that everything of a file but the body of its batch is as it was written; the bytes of batch and body.

    Raises:
        ShardError: it is not.
    """
    if len(data) < len(HEAD) + CHECK_BYTES + END_BYTES + TAIL_BYTES or data[: len(HEAD)] != HEAD:
        raise ShardError(f"{path} is truncated or is no Arrow file")
    if data[-len(MAGIC) :] != MAGIC:
        raise ShardError(f"{path} is truncated: it does not end as an Arrow file does")
    footer = len(data) - TAIL_BYTES - _footer_bytes(data)
    check = footer - CHECK_BYTES
    if check - END_BYTES < len(HEAD):
        raise ShardError(f"{path} is damaged: its footer claims {_footer_bytes(data)} bytes")
    if data[check : check + len(MARK)] != MARK:
        raise ShardError(f"{path} is damaged, or an Arrow file that vistok did not write")
    body_start = _body_start(data, check - END_BYTES)
    found = _checksum(data[:body_start], data[check - END_BYTES : check], data[footer:])
    if not body_start or struct.unpack("<I", data[check + len(MARK) : footer])[0] != found:
        raise ShardError(f"{path} is damaged: its metadata does not match its checksum")
    return check - END_BYTES - _message_end(data, len(HEAD))


def _footer_bytes(data: memoryview) -> int:
    return cast(int, struct.unpack("<i", data[-TAIL_BYTES : -len(MAGIC)])[0])


def _body_start(data: memoryview, end: int) -> int:
    """Where the body begins: after the schema's message and that of the batch; 0 if there is no such place."""
    position = len(HEAD)
    for _ in range(2):
        if position + 8 > end or data[position : position + 4] != CONTINUED:
            return 0
        position = _message_end(data, position)
    return position if position <= end else 0


def _message_end(data: memoryview, start: int) -> int:
    return start + 8 + cast(int, struct.unpack("<I", data[start + 4 : start + 8])[0])


def _checksum(*pieces: memoryview) -> int:
    check = 0
    for piece in pieces:
        check = zlib.crc32(piece, check)
    return check


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
