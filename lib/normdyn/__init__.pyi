from typing import Final

from normdyn.measures.collapse import neural_collapse as neural_collapse
from normdyn.measures.sharpness import adaptive_sharpness as adaptive_sharpness
from normdyn.norms.callbacks import lightning_callback as lightning_callback
from normdyn.norms.callbacks import trainer_callback as trainer_callback
from normdyn.norms.monitor import NormMonitor as NormMonitor
from normdyn.norms.network_margins import network_margin as network_margin
from normdyn.rescaling.descent import BalancedDescent as BalancedDescent
from normdyn.rescaling.gauge import rebalance as rebalance
from normdyn.rescaling.minimum import minimum_norm as minimum_norm
from normdyn.symmetry.charges import charges as charges
from normdyn.symmetry.scale_invariance import effective_learning_rates as effective_learning_rates
from normdyn.symmetry.scale_invariance import scale_invariant_groups as scale_invariant_groups
from normdyn.symmetry.scale_invariance import sphere_step as sphere_step

__version__: Final[str]
TOOLS: Final[dict[str, str]]
