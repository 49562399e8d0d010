"""Scans and masks as arrays (z,y,x): where they lie, what their labels are called, tidying."""
