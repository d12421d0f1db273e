<%-- What a servlet sees of the request itself; with "size", so many bytes and nothing else. --%>
<%@ page contentType="text/plain; charset=UTF-8" trimDirectiveWhitespaces="true" %>
<%
    request.setCharacterEncoding("UTF-8");
    if (request.getParameter("size") != null) {
        for (int at = 0; at < Integer.parseInt(request.getParameter("size")); at++) {
            out.print((char) ('a' + at % 23));
        }
        return;
    }
    out.print("url: " + request.getRequestURL() + "\n");
    out.print("secure: " + request.isSecure() + "\n");
    out.print("peer: " + request.getRemoteAddr() + "\n");
    out.print("grant: " + request.getParameter("grant_type") + "\n");
    out.print("scope: " + request.getParameter("scope") + "\n");
%>
