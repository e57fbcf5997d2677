setInterval(() => { if (document.getElementById("reload").checked) location.reload(); }, 30000);
