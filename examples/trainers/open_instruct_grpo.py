"""open-instruct's GRPO with our verifier. Takes the options of `open_instruct/grpo_fast.py`."""

import runpy

from rltf.adapters.open_instruct import unit_test_verifier

if __name__ == "__main__":
    unit_test_verifier(score="pass_ratio", workers=8)
    runpy.run_module("open_instruct.grpo_fast", run_name="__main__", alter_sys=True)
