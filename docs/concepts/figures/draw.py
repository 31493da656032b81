"""Draw the figures of the concept pages as SVG files beside this script: `python draw.py`.

Needs only the standard library. Each file carries its own background and switches its colours with
the reader's light or dark mode. Curves come from the `curve.json` of the shipped models.
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2] / "src" / "anytime_ar"

STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.card { fill: #f6f8fa; }
text { fill: #1f2328; font-size: 14px; }
.small { font-size: 12px; fill: #57606a; }
.bold { font-weight: 600; }
.on { fill: #ffffff; font-weight: 600; }
.onsmall { fill: #ffffff; font-size: 12px; }
.box { fill: #ffffff; stroke: #8c959f; stroke-width: 1.3; }
.kept { fill: #3b5bdb; stroke: #3b5bdb; }
.soft { fill: #91a7ff; stroke: #91a7ff; }
.fill { fill: none; stroke: #8c959f; stroke-dasharray: 4 3; }
.accent { fill: #e8590c; stroke: #e8590c; }
.warm { fill: #ffc078; stroke: #ffc078; }
.line { stroke: #57606a; stroke-width: 1.4; fill: none; }
.curve { stroke: #3b5bdb; stroke-width: 2.4; fill: none; }
.mark { stroke: #e8590c; stroke-width: 1.6; fill: none; stroke-dasharray: 5 4; }
.head { fill: #57606a; }
@media (prefers-color-scheme: dark) {
  .card { fill: #1c2128; }
  text { fill: #e6edf3; }
  .small { fill: #9da7b3; }
  .on, .onsmall { fill: #ffffff; }
  .box { fill: #2d333b; stroke: #768390; }
  .kept { fill: #4c6ef5; stroke: #4c6ef5; }
  .soft { fill: #3a4a8c; stroke: #3a4a8c; }
  .fill { stroke: #768390; }
  .accent { fill: #fd7e14; stroke: #fd7e14; }
  .warm { fill: #8a4b12; stroke: #8a4b12; }
  .line { stroke: #9da7b3; }
  .curve { stroke: #748ffc; }
  .mark { stroke: #fd7e14; }
  .head { fill: #9da7b3; }
}
"""


class Figure:
    """Collect shapes and write them as one SVG file.

    Args:
        name: of the file, without its suffix.
        title: what a screen reader says.
        height: in units; the width is 760.
    """

    WIDTH = 760

    def __init__(self, name: str, title: str, height: int) -> None:
        self._name, self._title, self._height = name, title, height
        self._shapes: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, kind: str = "box") -> None:
        """Draw a rectangle with round corners."""
        self._shapes.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{w:.1f}" height="{h:.1f}" rx="4"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write one line of text around a point."""
        self._shapes.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, w: float, h: float, *lines: str, kind: str = "box") -> None:
        """Draw a rectangle with centred lines of text; all but the first are small."""
        self.rect(x, y, w, h, kind)
        top = y + h / 2 + 5 - 8 * (len(lines) - 1)
        for i, words in enumerate(lines):
            style = "small" if i else "bold"
            if kind in ("kept", "accent"):
                style = "onsmall" if i else "on"
            self.text(x + w / 2, top + 16 * i, words, style)

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw an arrow."""
        angle = math.atan2(y2 - y1, x2 - x1)
        points = [
            (x2, y2),
            *(
                (x2 - 9 * math.cos(angle + turn), y2 - 9 * math.sin(angle + turn))
                for turn in (0.45, -0.45)
            ),
        ]
        self.path([(x1, y1), (x2 - 5 * math.cos(angle), y2 - 5 * math.sin(angle))], "line")
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polygon class="head" points="{corners}"/>')

    def path(self, points: list[tuple[float, float]], kind: str = "curve") -> None:
        """Draw straight lines from point to point."""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline class="{kind}" points="{way}"/>')

    def dot(self, x: float, y: float, kind: str = "accent") -> None:
        """Draw a dot."""
        self._shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')

    def save(self) -> None:
        """Write the file."""
        body = "\n".join(self._shapes)
        (HERE / f"{self._name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.WIDTH} {self._height}" '
            f'width="{self.WIDTH}" height="{self._height}" role="img">\n'
            f"<title>{escape(self._title)}</title>\n<style>{STYLE}</style>\n"
            f'<rect class="card" width="{self.WIDTH}" height="{self._height}" rx="10"/>\n'
            f"{body}\n</svg>\n",
            encoding="utf-8",
        )


def curve(model: str) -> list[dict[str, float]]:
    """Points of the measured curve of a shipped model."""
    (path,) = PACKAGE.glob(f"*/{model}/curve.json")
    points: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["points"]
    return points


def ordered_codes() -> None:
    """An image becomes L codes, any prefix decodes, and each further code removes less error."""
    figure = Figure("ordered-codes", "Encoder, ordered codes, decoder, and error by prefix", 400)
    figure.box(24, 40, 92, 64, "sample x", "[C, H, W]")
    figure.arrow(116, 72, 146, 72)
    figure.box(146, 40, 96, 64, "encoder")
    figure.arrow(242, 72, 272, 72)
    for i in range(8):
        figure.box(272 + 32 * i, 50, 28, 44, str(i + 1), kind="kept" if i < 3 else "box")
    figure.text(398, 34, "L codes, coarse to fine", "small")
    figure.path([(272, 102), (272, 110), (364, 110), (364, 102)], "mark")
    figure.text(318, 128, "prefix of k = 3", "small")
    figure.arrow(530, 72, 560, 72)
    figure.box(560, 40, 84, 64, "decoder")
    figure.arrow(644, 72, 666, 72)
    figure.box(666, 40, 76, 64, "sample", "k codes")

    points, left, bottom, width, height = curve("mnist"), 90, 350, 620, 170
    top = points[0]["mse"]
    figure.path([(left, bottom - height - 8), (left, bottom), (left + width, bottom)], "line")
    slot = width / len(points)
    for i, point in enumerate(points):
        tall = height * point["mse"] / top
        figure.rect(
            left + slot * i + 5, bottom - tall, slot - 10, tall, "kept" if i < 3 else "soft"
        )
        figure.text(left + slot * (i + 0.5), bottom + 18, str(int(point["codes"])), "small")
        figure.text(left + slot * (i + 0.5), bottom - tall - 6, f"{point['mse']:.2f}", "small")
    figure.text(left + width / 2, bottom + 38, "codes kept, k", "small")
    figure.text(
        left + 330, bottom - height + 6, "squared error of MNIST test images rebuilt from k codes"
    )
    figure.save()


def truncation() -> None:
    """Each sample of a batch keeps a prefix of its own; p(k) decides how long."""
    figure = Figure("truncation", "Prefixes of a batch, and distributions p(k)", 300)
    figure.text(190, 32, "one training step", "bold")
    for row, kept in enumerate((7, 2, 10, 4, 1)):
        y = 50 + 40 * row
        figure.text(66, y + 20, f"k = {kept}", "small", "end")
        for i in range(10):
            figure.rect(78 + 25 * i, y, 21, 28, "kept" if i < kept else "fill")
    figure.rect(78, 262, 16, 16, "kept")
    figure.text(100, 275, "code vector", "small", "start")
    figure.rect(190, 262, 16, 16, "fill")
    figure.text(212, 275, "fill vector in its place", "small", "start")
    length = 16
    shapes = {
        "uniform (the paper)": [1.0] * length,
        "geometric, ratio 0.9": [0.9**i for i in range(length)],
        "uniform, full_probability 0.5": [0.5 / length] * (length - 1) + [0.5 / length + 0.5],
    }
    for row, (name, weights) in enumerate(shapes.items()):
        total, bottom = sum(weights), 92 + 84 * row
        largest = max(weights)
        for i, weight in enumerate(weights):
            tall = 44 * weight / largest
            figure.rect(412 + 20 * i, bottom - tall, 15, tall, "soft")
        figure.path([(408, bottom), (734, bottom)], "line")
        figure.text(
            412, bottom - 54, f"p(k): {name}, largest {largest / total:.2f}", "small", "start"
        )
        figure.text(419, bottom + 15, "1", "small")
        figure.text(719, bottom + 15, "L", "small")
    figure.save()


def priors() -> None:
    """A causal Transformer reads the codes so far and predicts the next one."""
    figure = Figure("priors", "A causal Transformer over ordered codes", 330)
    inputs = ("label", "code 1", "code 2", "code 3", "code 4")
    for i, name in enumerate(inputs):
        x = 60 + 104 * i
        figure.box(x, 252, 88, 36, name, kind="box" if i else "soft")
        figure.arrow(x + 44, 252, x + 44, 226)
        figure.arrow(x + 44, 154, x + 44, 128)
        figure.box(x, 76, 88, 52, f"p(code {i + 1})", "V logits", kind="box")
        figure.arrow(x + 44, 76, x + 44, 52)
        figure.box(x, 18, 88, 34, f"code {i + 1}", kind="kept")
    figure.rect(48, 154, 528, 72, "soft")
    figure.text(312, 186, "decoder-only Transformer", "bold")
    figure.text(312, 206, "position i sees the label and codes 1 to i - 1", "small")
    figure.text(
        312,
        312,
        "teacher forcing in training; one code a step, with a KV cache, when sampling",
        "small",
    )
    figure.box(610, 76, 126, 52, "sampling", "parameters")
    figure.text(673, 150, "temperature", "small")
    figure.text(673, 168, "top_k, top_p", "small")
    figure.text(673, 186, "guidance", "small")
    figure.arrow(608, 102, 580, 102)
    figure.save()


def budgets() -> None:
    """Codes, a deadline and a share of quality all become one number of codes."""
    figure = Figure("budgets", "Three budgets on the measured curve of the MNIST model", 360)
    points, left, bottom, width, height = curve("mnist"), 76, 286, 640, 220
    full = points[-1]["fd_sample"]

    def at(k: float, share: float) -> tuple[float, float]:
        return left + width * k / 16, bottom - height * share

    shares = [(p["codes"], full / p["fd_sample"]) for p in points]
    figure.path([(left, bottom - height - 12), (left, bottom), (left + width + 6, bottom)], "line")
    for share in (0.25, 0.5, 0.75, 1.0):
        figure.text(left - 10, at(0, share)[1] + 4, f"{share:.2f}", "small", "end")
    for k in (1, 4, 8, 12, 16):
        x = at(k, 0)[0]
        figure.text(x, bottom + 18, str(k), "small")
        figure.text(x, bottom + 36, f"{points[k - 1]['ms']:.1f} ms", "small")
    figure.text(left + width / 2, bottom + 60, "codes, and time of one sample on one core", "small")
    figure.text(
        left, 34, "share of full quality: FD with all codes / FD with k codes", "small", "start"
    )
    figure.path([at(k, share) for k, share in shares])
    quality_k, quality = next((k, s) for k, s in shares if s >= 0.9)
    figure.path([at(0, 0.9), at(quality_k, 0.9), at(quality_k, 0)], "mark")
    figure.dot(*at(quality_k, quality))
    figure.text(at(quality_k, 0)[0] - 8, bottom - 16, "quality=0.9", "bold", "end")
    figure.path([at(4, 0), at(4, shares[3][1])], "mark")
    figure.dot(*at(*shares[3]))
    figure.text(at(4, 0)[0] + 8, bottom - 16, "codes=4", "bold", "start")
    figure.path([at(13.4, 0), at(13.4, 0.97)], "mark")
    figure.dot(*at(13, shares[12][1]))
    figure.text(at(13.4, 0)[0] + 8, bottom - 16, "deadline", "bold", "start")
    figure.save()


def deadlines() -> None:
    """Codes are drawn as long as one more code and the decode still fit."""
    figure = Figure("deadlines", "A draw against its deadline", 290)
    left, y = 40, 96
    steps = [("first code", 96)] + [(f"{i}", 42) for i in range(2, 10)]
    x = float(left)
    for i, (name, wide) in enumerate(steps):
        figure.box(x, y, wide - 3, 44, name, kind="soft" if not i else "kept")
        x += wide
    end = x
    figure.box(end, y, 92, 44, "decode", kind="accent")
    deadline = 640
    figure.path([(deadline, 40), (deadline, 196)], "mark")
    figure.text(deadline, 30, "deadline", "bold")
    figure.path([(left, 170), (left, 162), (end - 3, 162), (end - 3, 170)], "line")
    figure.text((left + end) / 2, 188, "codes drawn so far", "small")
    figure.box(end, 212, 42, 34, "10", kind="fill")
    figure.box(end + 42, 212, 92, 34, "decode", kind="fill")
    figure.box(end + 134, 212, 66, 34, "spread", kind="fill")
    figure.text(end - 12, 226, "one more code would need this reserve,", "small", "end")
    figure.text(end - 12, 243, "which ends after the deadline: stop and decode", "small", "end")
    figure.path([(left, 78), (left, 62), (end + 92, 62), (end + 92, 78)], "line")
    figure.text((left + end + 92) / 2, 54, "elapsed_s", "small")
    figure.text(
        left,
        272,
        "first_code_s, step_s and decode_s are measured on this machine, for this batch size.",
        "small",
        "start",
    )
    figure.save()


def elastic_serving() -> None:
    """Under load every request gets fewer codes, and every floor is kept."""
    figure = Figure("elastic-serving", "Requests share the iterations of one decode loop", 340)
    figure.text(
        380, 30, "iterations of the decode loop: one code for every running request", "bold"
    )
    requests = (
        ("A", 0, 14, 14, "complete"),
        ("B", 0, 9, 14, "load"),
        ("C", 3, 8, 14, "load"),
        ("D", 5, 4, 4, "complete"),
        ("E", 8, 7, 14, "deadline"),
        ("F", 10, 8, 14, "load"),
    )
    for row, (name, start, drawn, asked, reason) in enumerate(requests):
        y = 48 + 38 * row
        figure.text(40, y + 20, name, "bold")
        for i in range(asked):
            x = 62 + 24 * (start + i)
            if x > 620:
                continue
            kind = "fill" if i >= drawn else "kept" if i < 2 else "soft"
            figure.rect(x, y, 20, 26, kind)
        figure.text(738, y + 18, reason, "small", "end")
    figure.text(738, 40, "stop_reason", "small", "end")
    figure.arrow(62, 286, 640, 286)
    figure.text(655, 290, "time", "small", "start")
    for x, kind, words in (
        (62, "kept", "min_codes: promised"),
        (250, "soft", "shared fairly between clients"),
        (490, "fill", "asked for, given up under load"),
    ):
        figure.rect(x, 308, 16, 16, kind)
        figure.text(x + 24, 321, words, "small", "start")
    figure.save()


def kernel() -> None:
    """Where the kernel comes from, and how the faster implementation is chosen."""
    figure = Figure("kernel", "Finding a kernel and timing it against PyTorch", 330)
    figure.text(190, 30, "find a kernel", "bold")
    steps = (
        ("1. prebuilt, best instruction set", "inside the wheel"),
        ("2. compiled here, at first use", "$CXX, c++, g++, clang++, zig"),
        ("3. prebuilt, lower instruction set", "inside the wheel"),
        ("4. none: PyTorch operations", "a warning says so"),
    )
    for i, lines in enumerate(steps):
        y = 46 + 66 * i
        figure.box(36, y, 308, 48, *lines)
        if i:
            figure.arrow(190, y - 18, 190, y)
            figure.text(200, y - 5, "not available", "small", "start")
    figure.path([(344, 70), (370, 70), (370, 202), (344, 202)], "line")
    figure.arrow(370, 136, 404, 136)
    figure.text(560, 30, "choose an implementation", "bold")
    figure.box(404, 96, 150, 80, "time both", "native, portable", "1, 16, 64 rows")
    figure.arrow(554, 136, 592, 136)
    figure.box(592, 96, 136, 80, "one choice", "for all batch sizes")
    figure.arrow(660, 176, 660, 214)
    figure.box(560, 214, 168, 52, "autotune cache", "shared by processes")
    figure.text(644, 290, "a sample does not depend", "small")
    figure.text(644, 306, "on the batch it is drawn in", "small")
    figure.save()


def robustness() -> None:
    """Every input ends in a right result or in one error that names the next step."""
    figure = Figure("robustness", "Every input ends in a right result or one clear error", 310)
    inputs = ("data sets", "model files", "arguments", "requests", "cache files", "interrupts")
    for i, name in enumerate(inputs):
        y = 26 + 44 * i
        figure.box(30, y, 150, 34, name)
        figure.arrow(180, y + 17, 262, 154)
    figure.box(
        262,
        96,
        190,
        116,
        "check before work",
        "sizes against headers",
        "values against ranges",
        "writes by rename",
    )
    figure.arrow(452, 130, 530, 88)
    figure.arrow(452, 178, 530, 222)
    figure.box(530, 54, 200, 68, "right result", "what is left out is reported", kind="kept")
    figure.box(530, 188, 200, 68, "one error", "what came, what to do next", kind="accent")
    figure.text(630, 150, "never a traceback", "small")
    figure.text(630, 168, "never a silent guess", "small")
    figure.save()


if __name__ == "__main__":
    for make in (
        ordered_codes,
        truncation,
        priors,
        budgets,
        deadlines,
        elastic_serving,
        kernel,
        robustness,
    ):
        make()
