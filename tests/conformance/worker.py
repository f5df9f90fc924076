"""Runs tests of the overlay one by one and tells each outcome as a line of JSON.

Started by `tests.conformance.run`, as a script with the path of the events' file and the tests' names.
Imports little at the top: `spawn` imports it again.
"""

import sys


def main() -> None:
    import faulthandler
    import json
    import os
    import unittest

    faulthandler.enable()
    path, *wanted = sys.argv[1:]

    import test.bireme_pool as cases

    namespace = vars(cases)
    pid = os.getpid()

    def tell(name: str, outcome: str, message: str = "") -> None:
        if os.getpid() == pid:
            with open(path, "a") as file:
                file.write(json.dumps([name, outcome, message[-2000:]]) + "\n")

    class Result(unittest.TestResult):
        def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
            super().startTest(test)
            tell(name_of(test), "begun")

        def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
            tell(name_of(test), "passed")

        def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
            tell(name_of(test), "skipped", reason)

        def addFailure(self, test, error) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
            tell(name_of(test), "failed", self._exc_info_to_string(error, test))

        def addError(self, test, error) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
            tell(name_of(test), "failed", self._exc_info_to_string(error, test))

    def name_of(test: unittest.TestCase) -> str:
        identity = test.id()
        return ".".join(identity.split(".")[-2:])

    tests = unittest.TestSuite()
    for name in wanted:
        class_name, test_name = name.split(".")
        tests.addTest(namespace[class_name](test_name))
    namespace["setUpModule"]()
    try:
        tests.run(Result())
    finally:
        namespace["tearDownModule"]()


if __name__ == "__main__":
    main()
