"""Drills: a run meets kills, faults and full disks, and its tables are those of a calm one."""
