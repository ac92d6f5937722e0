"""The Lava engine; importing it makes lava-nc usable on the running Python, or says that it is not
installed."""

from mmfree_sims.lava_compat import enable_lava

enable_lava()
