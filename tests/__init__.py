"""The tests of bireme: unit, integration, conformance, stress."""
