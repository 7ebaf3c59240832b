"""Colours of everything that is drawn, as hexadecimal RGB."""

# Okabe and Ito's palette: orange, sky blue and yellow differ for every kind of colour vision.
LESION, ANATOMY, POSSIBLE = "#E69F00", "#56B4E9", "#F0E442"
BACKGROUND, TEXT = "#000000", "#f2f4f7"
