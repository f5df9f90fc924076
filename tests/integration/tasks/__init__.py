"""Task functions that a worker imports by name; light, since every spawned worker pays for it.

`spawn` and `forkserver` import the main module again, so whatever they shall run lives here.
"""

from tests.integration.tasks.arrays import *  # noqa: F403
from tests.integration.tasks.basic import *  # noqa: F403
from tests.integration.tasks.endless import *  # noqa: F403
from tests.integration.tasks.ends import *  # noqa: F403
from tests.integration.tasks.errors import *  # noqa: F403
from tests.integration.tasks.families import *  # noqa: F403
from tests.integration.tasks.forks import *  # noqa: F403
from tests.integration.tasks.robbers import *  # noqa: F403
from tests.integration.tasks.scribblers import *  # noqa: F403
from tests.integration.tasks.shared import *  # noqa: F403
from tests.integration.tasks.standard import *  # noqa: F403
from tests.integration.tasks.talk import *  # noqa: F403
