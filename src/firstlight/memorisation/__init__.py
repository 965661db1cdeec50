"""What a sample has copied from a text, and how far two texts overlap.

Arrays of ids in, numbers out: nothing here knows of runs, files or models. docs/memorisation.md
says what is measured.
"""

from firstlight.memorisation.copies import Copies as Copies
from firstlight.memorisation.copies import Copy as Copy
from firstlight.memorisation.copies import copies as copies
from firstlight.memorisation.overlap import Overlap as Overlap
from firstlight.memorisation.overlap import overlap as overlap
