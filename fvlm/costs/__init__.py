"""What a run costs: `flops.py` counted, `plan.py` predicted, `memory.py` measured, `machine.py` what there is
to run on."""
