"""draft"""
from tests.faults import mlp, cnn, recurrent, transformer
from tests.faults.corpus import PROGRAMS
