"Everything public, for `from sdn_lite.all import *` in notebooks. Written by hand: nbdev exports modules, not this list."
from .data import *
from .datasets import *
from .text import *
from .teacher import *
from .student import *
from .losses import *
from .speed import *
from .stages import *
from .pipeline import *
from .metrics import *
