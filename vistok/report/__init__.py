"""What commands show of their results: a console with bars, pages of HTML, plots."""
