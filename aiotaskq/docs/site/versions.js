// Shows the versions of the manual beside its name, where there are several. The build of each version writes this file
// anew above the folders of all versions, so that the pages of older versions name the newer ones.
const VERSIONS = [];
const top_ = new URL(".", document.currentScript.src).href;
const [current, folder] = location.href.slice(top_.length).split("/");
const language = folder === "zh" ? "zh/" : "";

document.addEventListener("DOMContentLoaded", () => {
    const place = document.querySelector(".md-header__topic");
    if (VERSIONS.length < 2 || place === null) return;
    const menu = document.createElement("div");
    menu.className = "md-version";
    const button = document.createElement("button");
    button.className = "md-version__current";
    button.textContent = current;
    const list = document.createElement("ul");
    list.className = "md-version__list";
    for (const version of VERSIONS) {
        const link = document.createElement("a");
        link.className = "md-version__link";
        link.href = `${top_}${version}/${language}index.html`;
        link.textContent = version;
        const item = document.createElement("li");
        item.className = "md-version__item";
        item.append(link);
        list.append(item);
    }
    menu.append(button, list);
    place.append(menu);
});
