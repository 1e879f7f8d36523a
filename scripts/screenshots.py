"""Remake the screenshots in docs/images: run a small job and open it in a headless Chromium.

PYTHONPATH=. .venv/bin/python scripts/screenshots.py [RUN_DIR]     with RUN_DIR: only the report of that run
PYTHONPATH=. .venv/bin/python scripts/screenshots.py dialogue RUN_DIR     only a dialogue that repaired its program

Needs Chromium (`apt-get install chromium`) and takes a few minutes. After a change of the page, write the report of
RUN_DIR again first (`rltf report RUN_DIR`).
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from PIL import Image

from scripts.browser import Browser

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
JOB = shlex.split(
    "launch.py --run.num_steps 30 --problems.train starter:train?references=no[:200] --problems.supervised "
    "starter:train?references=yes --problems.evaluation starter:test[:20] --generator.num_generations 8 "
    "--learner.batch_size 64 --learner.supervised_batch_size 16 --learner.sft.num_steps 500 "
    "--learner.optim.decay_steps 0 --buffer.capacity 1024 --buffer.refresh_every 2 --evaluation.every 8 "
    "--evaluation.num_samples 2 --sandbox.min_workers 2"
)
NAMES = ("learner", "buffer", "rollout-store", "generator-0", "sandbox-0", "sandbox-1")
# The dashboard would ask for a token on a machine that has one; this short local job needs none.
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "COLUMNS": "160"}


async def main() -> None:
    """Make all screenshots, or only those of one report, or of one dialogue."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Chromium may still write its profile
        async with Browser.start(Path(folder) / "profile") as browser:
            match sys.argv[1:]:
                case ["dialogue", run]:
                    await dialogue(browser, Path(run) / "report.html")
                case [run]:
                    await report(browser, Path(run) / "report.html")
                case _:
                    run_folder = Path(folder) / "screenshots"
                    await run_job(browser, run_folder)
                    await report(browser, run_folder / "report.html")


async def run_job(browser: Browser, run: Path) -> None:
    """Run the job in the folder `run`, and take pictures of the Ray dashboard while it trains."""
    command = [sys.executable, *JOB, "--run.dir", str(run)]
    job = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert job.stdout is not None
    address = ""
    async for line in job.stdout:
        text = line.decode()
        print(text, end="")
        address = found[1] if (found := re.search(r"Ray dashboard: (\S+)", text)) else address
        if text.startswith("step 6/"):
            await dashboard(browser, address)
    if await job.wait() != 0:
        raise SystemExit("the job failed")


async def dashboard(browser: Browser, address: str) -> None:
    """Take pictures of the list of actors and of the learner's calls."""
    await browser.open(f"{address}/#/actors", width=1900, height=1000)
    for name in NAMES:
        await browser.until(f"document.body.innerText.includes('{name}')")
    save("ray-dashboard.png", await browser.screenshot())
    await show_calls(browser, "learner")
    await browser.until("document.body.innerText.includes('learner.step')")
    save("ray-dashboard-learner.png", await browser.screenshot(10_000))


async def show_calls(browser: Browser, actor: str) -> None:
    """Open the calls of an actor, from the list of actors."""
    row = f"[...document.querySelectorAll('tr')].find(row => row.innerText.includes('{actor}'))"
    await browser.until(f"!!{row}")
    await browser.value(f"{row}.querySelector('a').click()")
    await browser.click("Tasks History")


async def report(browser: Browser, page: Path) -> None:
    """Take pictures of the report on a phone and on a desktop, in light and dark mode, and of programs with errors."""
    for device, width, height in (("desktop", 1280, 1000), ("phone", 390, 1000)):
        for light, dark in (("light", False), ("dark", True)):
            await browser.open(page.absolute().as_uri(), width=width, height=height, dark=dark)
            top = await top_of_programs(browser) if dark and device == "phone" else 0
            save(f"report-{device}-{light}.png", await browser.screenshot(top))
    await browser.open(page.absolute().as_uri(), width=960, height=900)
    await browser.value("chosen.outcome.value = 'runtime_error'; applyFilters()")
    save("report-programs.png", await browser.screenshot(await top_of_programs(browser)))


async def top_of_programs(browser: Browser) -> int:
    """How far down in the report its sample programs begin, in pixels."""
    return int(await browser.value("document.getElementById('browser').offsetTop")) - 16


async def dialogue(browser: Browser, page: Path) -> None:
    """Take a picture of the newest dialogue that repaired its program, with what each turn changed."""
    await browser.open(page.absolute().as_uri(), width=960)
    await browser.value("show(samples.filter((sample) => sample.dialogue === 'repaired'))")
    if not await browser.value("matching.length"):
        raise SystemExit(f"{page}: no dialogue repaired its program")
    await browser.value("byId('changes').click()")
    save("dialogue.png", await browser.picture(".program", margin=12))


def save(name: str, png: bytes) -> None:
    """Save a screenshot with fewer colors, to keep the file small."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(IMAGES / name, optimize=True)
    print(IMAGES / name, (IMAGES / name).stat().st_size)


if __name__ == "__main__":
    asyncio.run(main())
