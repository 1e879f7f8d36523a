"""`python -m problems augment` is `rltf augment`. This shim is the only import in this room that points upwards."""

import sys

from augmentation.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:] if sys.argv[1:2] == ["augment"] else sys.argv[1:]))
