"""What losses say of configs: which is best, and how sure a mean is.

Arrays in, a judgement out: nothing here knows of runs, files or models.
"""

from firstlight.statistics.comparison import Comparison as Comparison
from firstlight.statistics.comparison import Pair as Pair
from firstlight.statistics.comparison import compare as compare
from firstlight.statistics.means import Interval as Interval
from firstlight.statistics.means import mean_of_chosen as mean_of_chosen
from firstlight.statistics.means import mean_over_text as mean_over_text
from firstlight.statistics.rungs import Rung as Rung
from firstlight.statistics.scaling import Ladder as Ladder
from firstlight.statistics.scaling import fit_ladder as fit_ladder
