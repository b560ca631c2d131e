"""The bare script's steps as flows of Metaflow, Prefect and ZenML, each run in an environment of its own."""
