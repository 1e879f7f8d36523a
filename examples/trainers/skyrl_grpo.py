"""SkyRL's trainer with our environment. Takes the settings of `skyrl.train.entrypoints.main_base`."""

import sys

import ray
import skyrl_gym
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.utils import validate_cfg
from skyrl.train.utils.utils import initialize_ray


@ray.remote(num_cpus=1)
def train(config: SkyRLTrainConfig) -> None:
    """The run. Environments are registered in the process that makes them."""
    options = {"score": "pass_ratio", "workers": 8}
    skyrl_gym.register("unit_tests", entry_point="rltf.adapters.skyrl:UnitTestEnv", kwargs=options)
    BasePPOExp(config).run()


if __name__ == "__main__":
    config = SkyRLTrainConfig.from_cli_overrides(sys.argv[1:])
    validate_cfg(config)
    initialize_ray(config)
    ray.get(train.remote(config))
