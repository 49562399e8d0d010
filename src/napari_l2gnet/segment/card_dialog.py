"""Shows a model's card."""

from __future__ import annotations

from html import escape

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QTextBrowser, QVBoxLayout, QWidget

from l2gnet_core.models.card import ModelCard


class CardDialog(QDialog):
    """Shows what a model knows, what it was trained on, and how well it does."""

    def __init__(self, card: ModelCard, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Model: {card.name}")
        text = QTextBrowser()
        text.setOpenExternalLinks(True)
        text.setHtml(card_html(card))
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(text)
        layout.addWidget(buttons)
        self.resize(520, 560)


def card_html(card: ModelCard) -> str:
    """The card as HTML; texts from the file are escaped."""
    parts = [f"<h2>{escape(card.name)}</h2><p>{escape(card.summary)}</p>"]
    rows = []
    for label in card.labels:
        dice = card.score(label.name, "dice", 3) or "–"
        hd95 = card.score(label.name, "hd95", 1) or "–"
        rows.append(
            f'<tr><td style="color:{escape(label.color)}">■ </td>'
            f"<td>{label.id} {escape(label.name)}</td><td>{dice}</td><td>{hd95}</td></tr>"
        )
    head = "<tr><th></th><th align=left>Organ</th><th>Dice</th><th>HD95</th></tr>"
    parts.append(f"<table cellpadding=4>{head}{''.join(rows)}</table>")
    tested = card.split.get("test", ())
    if tested and card.scores:
        parts.append(f"<p>Measured on {len(tested)} patients that were not used in training.</p>")
    for title, text in (
        ("Data", card.data),
        ("Licence", card.licence),
        ("Source", card.citation),
        ("Slices", f"{card.slicing}; the model sees them {card.shown}"),
    ):
        if text:
            parts.append(f"<p><b>{title}:</b> {escape(text)}</p>")
    if card.weaknesses:
        items = "".join(f"<li>{escape(weakness)}</li>" for weakness in card.weaknesses)
        parts.append(f"<p><b>Known weaknesses</b></p><ul>{items}</ul>")
    return "".join(parts)
