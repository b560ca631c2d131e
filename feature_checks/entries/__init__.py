"""How each expectation type is judged by aggregates: one function a type, and why the rest is left."""
