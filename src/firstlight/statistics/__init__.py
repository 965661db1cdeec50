"""Which of several configs is best, judged from losses alone: `firstlight.statistics.compare`.

Arrays in, a judgement out: nothing here knows of runs, files or models.
"""

from firstlight.statistics.comparison import Comparison as Comparison
from firstlight.statistics.comparison import Pair as Pair
from firstlight.statistics.comparison import compare as compare
