"""Draw docs/images/run42.png, the picture in the README: `python docs/images/make.py` (needs Chromium or Chrome)."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import grokinterp as gi

WIDTH, HEIGHT, SCALE = 920, 520, 1.75  # CSS pixels, and image pixels per CSS pixel
IMAGES = Path(__file__).parent


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("install Chromium or Chrome, and put it on the PATH")
    figure = gi.figures.overview(gi.analyze(IMAGES.parents[1] / "checkpoints" / "run42"))
    figure.update_layout(width=WIDTH, height=HEIGHT, margin_t=64)
    figure.layout.updatemenus = ()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        html = figure.to_html(config={"displayModeBar": False})
        page.write_text(html.replace("<body>", '<body style="margin: 0">'), encoding="utf-8")
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=20000",
        ]
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}"]
        target = f"--screenshot={IMAGES / 'run42.png'}"
        subprocess.run([browser, *options, *size, target, page.as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
