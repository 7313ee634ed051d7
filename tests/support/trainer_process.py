"""A trainer in a process of its own, or in several that torchrun starts: `-m tests.support.trainer_process FILE`.

FILE holds a pickled configuration of the denoiser's or the autoencoder's trainer.
"""

import pickle
import sys
from pathlib import Path

from model.training.autoencoder_trainer import AutoencoderTrainConfig, train_autoencoder
from model.training.denoiser_trainer import train_denoiser


def main() -> None:
    config = pickle.loads(Path(sys.argv[1]).read_bytes())
    train = train_autoencoder if isinstance(config, AutoencoderTrainConfig) else train_denoiser
    train(config, report=lambda line: sys.stdout.write(line + "\n"))


if __name__ == "__main__":
    main()
