"""Reading back what a figure renders to."""

import io
import struct

from matplotlib.figure import Figure


def size_of_png(figure: Figure) -> tuple[int, int]:
    """Pixels, read back from the rendered file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    data = buffer.getvalue()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height
