"""A browser looks at the Ray dashboard: it lists actors by name and state, and names their current calls."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rltf.controller.learner_service import shown_step
from scripts.browser import CHROMIUM, Browser
from scripts.screenshots import show_calls

ROOT = Path(__file__).parents[2]
ROW = "[...document.querySelectorAll('tr')].find(row => row.innerText.includes('{}'))"


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (`apt-get install chromium`)")
def test_actors_and_their_calls_have_names(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reporting.dashboard_run"],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},  # the page would ask for the token
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://"), address

    async def look() -> None:
        async with Browser.start(tmp_path) as browser:
            await browser.open(f"{address}/#/actors", width=1500)
            for name in ("learner", "rollout-store", "buffer", "sandbox-0"):
                await browser.until(f"{ROW.format(name)}?.innerText.includes('ALIVE')")
            await show_calls(browser, "learner")
            await browser.until("document.body.innerText.includes('learner.step 12 of 60')")

    try:
        asyncio.run(look())
    finally:
        process.communicate("", timeout=60)


@pytest.mark.parametrize("num_steps", [1, 60, 100, 101, 5000])
def test_a_long_run_has_few_call_names(num_steps: int) -> None:
    shown = [shown_step(step, num_steps) for step in range(num_steps)]
    assert len(set(shown)) <= 100
    assert shown[0].startswith("learner.step 1")
    assert shown[-1].endswith(f"{num_steps} of {num_steps}")
    assert num_steps > 100 or len(set(shown)) == num_steps
