"""All readers that are fuzzed."""

from tests.fuzz import contents

READERS = [*contents.READERS]
