"""Airflow's one entry: each spec becomes a DAG. The only room that imports Airflow."""
