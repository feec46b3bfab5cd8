"""How far labels can be believed: agreement, calibration, bias."""
