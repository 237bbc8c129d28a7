"""Where in a JSON schema other schemas stand."""

from __future__ import annotations

from typing import Final

SCHEMAS_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMAS: Final = ("items", "additionalProperties", "propertyNames", "unevaluatedProperties")
